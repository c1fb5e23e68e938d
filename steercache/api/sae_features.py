"""Single features of SAEs as vectors: what `Cache.feature_vector` does."""

from steercache.api.feature_screening import SaeLike
from steercache.api.sae_encoding import load
from steercache.core.vectors import SteeringVector
from steercache.manifests.sae import SaeManifest
from steercache.queries.session import Session
from steercache.sae.loading import load_sae
from steercache.sae.single import best_feature, feature_vector, origin_of


def vector_of_feature(
    session: Session, sae: SaeLike, feature: int | None, *, concept: str | None, layer: int | None
) -> SteeringVector:
    """See `Cache.feature_vector`."""
    loaded = load_sae(sae, layer=layer) if isinstance(sae, SaeManifest) else load(sae, layer=layer, device="cpu")
    if feature is None:
        feature = best_feature(session.cache, loaded, concept or "")
    vector = feature_vector(loaded, feature, origin=origin_of(session.cache, loaded), concept=concept)
    session.save(vector)
    return vector
