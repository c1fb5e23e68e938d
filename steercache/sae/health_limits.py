"""Whether an SAE is healthy enough on a run for what is asked of it: a fit warns below one limit and refuses below another."""

import warnings
from dataclasses import dataclass

from steercache.core.errors import SteercacheWarning, UsageError
from steercache.sae.health import ALL, Health, KindHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """Limits for one kind of row. Below `warn_*` a warning is given; below `refuse_*` the SAE is refused.

    An SAE that explains less than none of the variance describes the rows worse than their mean does. `max_l0_share` is of the
    features: where more fire on the average row, what it finds is no sparse code.
    """

    warn_explained_variance: float = 0.5
    refuse_explained_variance: float = 0.0
    warn_cosine: float = 0.7
    warn_dead_share: float = 0.9
    max_l0_share: float = 0.25
    least_rows: int = 100


DEFAULT_LIMITS = HealthLimits()


def check_health(
    health: Health, minimum: HealthLimits = DEFAULT_LIMITS, *, kind: str = ALL, refuse: bool = True
) -> tuple[str, ...]:
    """Warn of, or refuse, an SAE below `minimum` on rows of one `kind`; returns what was found, () where all is well.

    With `refuse` false what would be refused is a warning too. Fewer than `least_rows` rows decide nothing: that is a warning.

    Raises:
        UsageError: the SAE is below a limit of refusal, or the run has no rows of the kind.
    """
    try:
        row = health.of(kind)
    except KeyError:
        raise UsageError(f"the run has no {kind} rows on which the SAE {health.sae!r} could be judged") from None
    place = f"the SAE {health.sae!r} on {kind} rows of run {health.run_id[:12]}, {health.site} {health.layer}"
    fatal, mild = _problems(row, minimum, n_features=health.n_features)
    if fatal and refuse:
        raise UsageError(
            f"{place}: {'; '.join(fatal)}",
            hint="choose an SAE trained on such activations, or allow an unhealthy SAE",
        )
    found = (*fatal, *mild)
    if found:
        warnings.warn(f"{place}: {'; '.join(found)}", SteercacheWarning, stacklevel=2)
    return found


def _problems(row: KindHealth, limits: HealthLimits, *, n_features: int) -> tuple[list[str], list[str]]:
    """What is below the limits of refusal, and what is below those of warning."""
    if row.n_rows < limits.least_rows or row.explained_variance is None:
        return [], [f"only {row.n_rows} rows: too few to judge it"]
    fatal, mild = [], []
    variance = row.explained_variance
    if variance < limits.refuse_explained_variance:
        fatal.append(f"explained variance {variance:.2f}, below {limits.refuse_explained_variance:.2f}")
    elif variance < limits.warn_explained_variance:
        mild.append(f"explained variance {variance:.2f}, below {limits.warn_explained_variance:.2f}")
    if row.l0_mean is not None and row.l0_mean > limits.max_l0_share * n_features:
        fatal.append(f"{row.l0_mean:,.0f} of {n_features:,} features fire in the average row")
    if row.cosine is not None and row.cosine < limits.warn_cosine:
        mild.append(f"cosine {row.cosine:.2f}, below {limits.warn_cosine:.2f}")
    if row.n_dead > limits.warn_dead_share * n_features:
        mild.append(f"{row.n_dead:,} of {n_features:,} features never fire")
    return fatal, mild
