"""Which tokens are anchors and which are controls: the one rule, as SQL. `trace` has the same rule in Python for row policies.

An anchor's characters overlap an anchor span of its sample. A control is any other text token with characters of a sample that
has anchors, or whose label `controls` says so, without position 0: the first position is the attention sink, and its massive
activation would swamp every mean. What a chat template writes is of kind template, and no control.
"""


def is_anchor(token: str, sample: str) -> str:
    """SQL for `is_anchor`, given the aliases of a row with char_start, char_end and of a row with anchors."""
    overlaps = f'{token}.char_start < span."end" AND {token}.char_end > span."start"'
    return (
        f"({token}.char_start >= 0"
        f" AND coalesce(list_bool_or(list_transform({sample}.anchors, lambda span: {overlaps})), false))"
    )


def is_control(token: str, sample: str) -> str:
    """SQL for `is_control`, given the same aliases."""
    return (
        f"({token}.kind = 'text' AND {token}.position > 0 AND {token}.char_start >= 0"
        f" AND coalesce({sample}.controls, len({sample}.anchors) > 0, false)"
        f" AND NOT {is_anchor(token, sample)})"
    )
