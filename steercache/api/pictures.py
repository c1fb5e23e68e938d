"""Pictures of analyses, written as .png or .svg files."""

from pathlib import Path

from steercache.analysis.colours import ColourEffect
from steercache.analysis.drift import Drift
from steercache.analysis.patches import PatchMaps
from steercache.analysis.pictures import picture_of
from steercache.queries.session import Session
from steercache.report.colours import colour_chart
from steercache.report.drift import drift_chart
from steercache.report.effect import effect_chart
from steercache.report.patches import patch_chart
from steercache.report.style import save_chart
from steercache.steering.effects import WordMass

Drawable = WordMass | ColourEffect | Drift


def draw(found: Drawable, path: Path) -> Path:
    """Draw the curves of an analysis into a file, and return it.

    Raises:
        UsageError: neither .png nor .svg. MissingExtraError: altair or vl-convert is not installed.
    """
    if isinstance(found, WordMass):
        save_chart(effect_chart(found), path)
    elif isinstance(found, ColourEffect):
        save_chart(colour_chart(found), path)
    else:
        save_chart(drift_chart(found), path)
    return path


def draw_patches(session: Session, maps: PatchMaps, path: Path, *, picture: Path | None = None) -> Path:
    """Draw maps of patches over their picture (`picture`, or that of the run's data set), and return the file.

    Raises:
        As `draw`; NotFoundError: the picture is not there. DamagedError: it is another one than the run saw.
    """
    save_chart(patch_chart(maps, picture_of(session, maps.sample, picture)), path)
    return path
