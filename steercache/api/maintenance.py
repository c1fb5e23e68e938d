"""Results of the methods that care for a cache's files."""

from collections.abc import Sequence
from dataclasses import dataclass

from steercache.api.progress import ProgressCallback
from steercache.cache.again import build_command as build_command
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.cache.non_finite import REMEDIES as REMEDIES
from steercache.cache.non_finite import describe_non_finite as describe_non_finite
from steercache.cache.verify import Finding, verify_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification found: `findings` is empty when every file is as recorded; `n_bytes` were read."""

    n_bytes: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def damage(self) -> tuple[Finding, ...]:
        """Findings about files; rows that are not finite were written so, and are findings too."""
        return tuple(finding for finding in self.findings if finding.severity != "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed of a run: all of it (`n_bytes` freed), or its damaged `shards`."""

    run_id: str
    name: str
    n_bytes: int = 0
    shards: tuple[int, ...] = ()


def verify(folder: CacheFolder, runs: Sequence[str], show: ProgressCallback) -> Verified:
    """Check the files of `runs` (all of them if there are none). Raises NotFoundError."""
    wanted = [folder.resolve_run(run) for run in runs] or None
    findings: list[Finding] = []
    n_bytes = 0
    for n_shards, checked in enumerate(verify_root(folder, wanted), start=1):
        findings += checked.findings
        n_bytes += checked.n_bytes
        show("verifying shards", n_shards, None)
    return Verified(n_bytes=n_bytes, findings=tuple(findings))
