"""Which layer each entry of captured hidden states is: what files do not say is asked for, never guessed."""

from collections.abc import Sequence
from dataclasses import dataclass

from steercache.core.errors import UsageError
from steercache.exchange.activations.captured import Captured, LastEntry, Numbering

EMBEDDING = -1  # as a layer: what enters block 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryMap:
    """Where things lie on the axis of entries.

    `layers` are blocks whose output is there, ascending, `positions` their entries; `embedding` and `norm` are the entries of
    the embedding and of the final norm's output, which are no outputs of blocks.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    embedding: int | None = None
    norm: int | None = None

    def only(self, layers: Sequence[int] | None) -> "EntryMap":
        """The entries of some blocks. Raises UsageError for a block that was not captured."""
        if layers is None:
            return self
        at = dict(zip(self.layers, self.positions, strict=True))
        if beyond := [layer for layer in layers if layer not in at]:
            raise UsageError(
                f"layers {_listed(beyond)} were not captured",
                hint=f"there are outputs of blocks {_listed(self.layers)}",
            )
        order = tuple(sorted({*layers}))
        positions = tuple(at[layer] for layer in order)
        return EntryMap(layers=order, positions=positions, embedding=self.embedding, norm=self.norm)

    def named(self) -> dict[int, str]:
        """What each entry is, in words."""
        words = {at: f"output of block {layer}" for layer, at in zip(self.layers, self.positions, strict=True)}
        words |= {} if self.embedding is None else {self.embedding: "embedding"}
        return dict(sorted((words | ({} if self.norm is None else {self.norm: "final norm"})).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRequest:
    """What the caller says about the entries; None where nothing."""

    entries: tuple[int, ...] | None = None
    numbering: Numbering | None = None
    last: LastEntry | None = None


def map_entries(captured: Captured, said: EntryRequest, *, n_layers: int, place: str) -> EntryMap:
    """The layers of the entries of `captured`, whose samples all have as many.

    Raises:
        UsageError: something is not said, or contradicts the files; the message says what to say.
    """
    n_entries = captured.samples[0].n_entries
    numbering = said.numbering or captured.numbering
    entries = said.entries or captured.entries
    if entries is None and n_entries == n_layers + 1 and numbering in (None, "states"):
        entries, numbering = (
            tuple(range(n_entries)),
            "states",
        )  # as many as transformers returns: it can be nothing else
    if entries is None and n_entries == n_layers and numbering == "blocks":
        entries = tuple(range(n_entries))
    if entries is None:
        raise UsageError(
            f"the files have {n_entries} entries per token and do not say of which layers; the model has {n_layers} blocks",
            place=place,
            hint="say which entries they are, in their order (vLLM: eagle_aux_hidden_state_layer_ids)",
        )
    if numbering is None:
        raise UsageError(
            f"entries {_listed(entries)}: is 0 the embedding, or the output of block 0?",
            place=place,
            hint="say how they are counted: states (0 is the embedding) or blocks (0 is the output of block 0)",
        )
    if len(entries) != n_entries:
        raise UsageError(
            f"{len(entries)} entries are named, the files have {n_entries}",
            place=place,
            hint="the numbers of the layers that were captured, in the files' order",
        )
    layers = [one - 1 if numbering == "states" else one for one in entries]
    if len(set(layers)) < len(layers) or not all(EMBEDDING <= layer < n_layers for layer in layers):
        first, beyond = (0, n_layers) if numbering == "states" else (-1, n_layers - 1)
        raise UsageError(
            f"entries {_listed(entries)} counted as {numbering} are no layers of a model with {n_layers} blocks",
            place=place,
            hint=f"each once, from {first} to {beyond}; or count them the other way",
        )
    return _placed(layers, last=_last(captured, said, layers, n_layers=n_layers, place=place), n_layers=n_layers)


def _last(captured: Captured, said: EntryRequest, layers: Sequence[int], *, n_layers: int, place: str) -> LastEntry:
    last = said.last or captured.last
    if last is None and n_layers - 1 in layers:
        raise UsageError(
            f"the entry of the last block ({n_layers - 1}): is it the block's output, or behind the final norm?",
            place=place,
            hint="say which: block, or norm (the last of transformers' hidden_states is behind the norm); or have it verified"
            " against the model",
        )
    return last or "block"


def _placed(layers: Sequence[int], *, last: LastEntry, n_layers: int) -> EntryMap:
    at = {layer: position for position, layer in enumerate(layers)}
    embedding = at.pop(EMBEDDING, None)
    norm = at.pop(n_layers - 1, None) if last == "norm" else None
    order = sorted(at)
    return EntryMap(layers=tuple(order), positions=tuple(at[layer] for layer in order), embedding=embedding, norm=norm)


def _listed(entries: Sequence[int]) -> str:
    return ", ".join(map(str, entries[:12])) + (", ..." if len(entries) > 12 else "")
