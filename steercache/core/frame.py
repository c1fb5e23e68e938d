"""What part of a picture a model's view shows."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFrame:
    """A view that is a square in the picture's middle, `share` of its shortest or longest edge long.

    By the shortest edge the picture's ends are cut off (CLIP's centre crop, LLaVA-1.5), by the longest it has a border.
    """

    edge: Literal["shortest", "longest"]
    share: float

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the view as fractions of a picture of this size; beyond 0 and 1 lies the border.

        >>> ViewFrame(edge="shortest", share=1.0).box(200, 100)
        (0.25, 0.0, 0.75, 1.0)
        >>> ViewFrame(edge="longest", share=1.0).box(200, 100)
        (0.0, -0.5, 1.0, 1.5)
        """
        side = self.share * (min if self.edge == "shortest" else max)(width, height)
        across, down = side / width, side / height
        return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2
