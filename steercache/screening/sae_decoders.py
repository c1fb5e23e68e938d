"""Decoder rows of SAEs by layer, loaded when a layer is looked at: one SAE is in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from steercache.cache.documents import RunModel
from steercache.core.errors import UsageError
from steercache.core.saes import SaeSpec
from steercache.sae.find import FoundSae
from steercache.sae.fits_run import check_steers
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae

Float32Array = npt.NDArray[np.float32]


class SaeDecoders(Mapping[int, Float32Array]):
    """By layer the decoder rows (f, d) of SAEs that fit one model, in the space of raw activations.

    `specs` has what is known of each SAE that was loaded. Raises UsageError as `fits_run.check_steers` where one is loaded that
    does not fit.
    """

    def __init__(self, saes: Sequence[FoundSae | LoadedSae], model: RunModel, *, allow_foreign: bool = False) -> None:
        self._model, self._allow_foreign = model, allow_foreign
        self._last: tuple[int, LoadedSae] | None = None
        self._sources: dict[int, FoundSae | LoadedSae] = {}
        self.specs: dict[int, SaeSpec] = {}
        for source in saes:
            layer = source.layer if isinstance(source, FoundSae) else source.spec.layer
            if layer is None:  # only the SAE's own configuration says it
                loaded = self._checked(source)
                assert loaded.spec.layer is not None
                layer, self._last = loaded.spec.layer, (loaded.spec.layer, loaded)
            if layer in self._sources:
                raise UsageError(f"two SAEs of layer {layer}", hint="name one for each layer")
            self._sources[layer] = source

    def __getitem__(self, layer: int) -> Float32Array:
        return self.loaded(layer).decoder

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._sources))

    def __len__(self) -> int:
        return len(self._sources)

    def loaded(self, layer: int) -> LoadedSae:
        """The SAE of a layer, in memory; the one before is released."""
        if self._last is None or self._last[0] != layer:
            self._last = None
            self._last = (layer, self._checked(self._sources[layer]))
        self.specs[layer] = self._last[1].spec
        return self._last[1]

    def _checked(self, source: FoundSae | LoadedSae) -> LoadedSae:
        loaded = source
        if isinstance(loaded, FoundSae):
            loaded = load_sae(loaded.manifest, layer=loaded.layer, base_dir=loaded.base_dir)
        check_steers(loaded.spec, self._model, allow_foreign=self._allow_foreign)
        return loaded
