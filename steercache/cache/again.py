"""How a run is built again: it keeps the name that its manifest gave it, not the file that the manifest came from."""

from steercache.core.errors import NotFoundError
from steercache.manifests.load import find_manifest


def build_command(name: str) -> str:
    """The command that builds the run `name` again, with a placeholder for a manifest that cannot be found by name.

    >>> build_command("smollm2-concepts"), build_command("my-run")
    ('steercache build smollm2-concepts', 'steercache build ITS_MANIFEST.yaml')
    """
    try:
        find_manifest(name, kind="trace")
    except NotFoundError:
        return "steercache build ITS_MANIFEST.yaml"
    return f"steercache build {name}"
