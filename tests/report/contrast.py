"""How well two colours of a page tell apart, as the guidelines for accessible pages (WCAG 2.2, 1.4.3) count it."""


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    """Between 1 and 21; 4.5 is enough for text."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
