"""Verification by a person: the sheet of picked features, written to be read and filled in, and its verdicts read back.

`<name>.csv` has a row per feature with an empty column `verdict` (yes, no or unclear); `<name>.md` shows the same features to
read. A sheet names the SAE of every row: verdicts on features of another SAE are refused.
"""

import codecs
import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from steercache.core.errors import ManifestError, NotFoundError, Problem, SteercacheWarning, UsageError
from steercache.core.saes import SaeSpec
from steercache.sae.candidates import LayerCandidates
from steercache.sae.evidence import Evidence
from steercache.sae.vector import Verification
from steercache.sae.verdict import ANSWERS, Verdict
from steercache.store.durable import write_file_atomically

COLUMNS: Final = (
    "layer",
    "feature",
    "verdict",
    "note",
    "rank",
    "score",
    "n_sentences",
    "explanation",
    "contexts",
    "sae_id",
)
_SHOWN: Final = 5  # contexts in a cell of the CSV; the Markdown has all
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would run


def write_sheet(
    path: Path, found: Sequence[LayerCandidates], evidence: Mapping[tuple[int, int], Evidence], *, concept: str
) -> tuple[Path, Path]:
    """Write the sheet as `<path>.csv` and `<path>.md`, and return both; a missing folder is made, and a CSV that
    holds verdicts is not written over.

    Raises:
        UsageError: no feature was picked, or the CSV is there and has been filled in.
    """
    if not any(one.picked for one in found):
        raise UsageError("no feature was picked, so there is nothing to review", place=concept)
    table, text = path.with_name(path.name + ".csv"), path.with_name(path.name + ".md")
    if table.exists() and _is_filled(table):
        raise UsageError("it holds verdicts already", place=str(table), hint="write the new sheet to another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(table, _csv(found, evidence).encode())
    write_file_atomically(text, _markdown(found, evidence, concept).encode())
    return table, text


def read_sheet(path: Path, found: Sequence[LayerCandidates]) -> Verification:
    """The verdicts of a sheet on the features that were picked; an empty one is no verdict. Warns of verdicts on others.

    Raises:
        NotFoundError: no such file. ManifestError: rows that cannot be read, all of them with their lines.
        UsageError: it is no CSV with the columns layer, feature and verdict.
    """
    rows = _rows(path)
    saes = {one.layer: one.spec for one in found}
    verdicts: dict[tuple[int, int], Verdict] = {}
    problems: list[Problem] = []
    for line, row in rows:
        try:
            verdict = _verdict(row, saes)
        except ValueError as error:
            problems.append(Problem(loc="", kind="row", message=str(error), file=str(path), line=line))
            continue
        if verdict is None:
            continue
        key = (verdict.layer, verdict.feature)
        if key in verdicts and verdicts[key].answer != verdict.answer:
            message = f"a second verdict on feature {key[1]} of layer {key[0]}, and another one"
            problems.append(Problem(loc="verdict", kind="duplicate", message=message, file=str(path), line=line))
        verdicts[key] = verdict
    if problems:
        rows_said = "1 row" if len(problems) == 1 else f"{len(problems)} rows"
        raise ManifestError(f"{rows_said} of the sheet cannot be read", problems=problems)
    picked = {(one.layer, c.feature) for one in found for c in one.picked}
    _warn_of_unused([key for key in verdicts if key not in picked], path)
    n_used = sum(key in picked for key in verdicts)  # what else a sheet holds is no part of the vector
    return Verification(by="sheet", verdicts=tuple(verdicts.values()), facts={"n_verdicts": n_used})


def _warn_of_unused(unused: Sequence[tuple[int, int]], path: Path) -> None:
    """A sheet of another selection or other rows may say yes to features that this fit does not pick."""
    if unused:
        layer, feature = unused[0]
        shown = f"{len(unused)} of its verdicts {'is' if len(unused) == 1 else 'are'} on features that this fit does not pick"
        warnings.warn(
            f"{path}: {shown}, and not used; the first: feature {feature} of layer {layer}",
            SteercacheWarning,
            stacklevel=4,
        )


def _verdict(row: Mapping[str, str], saes: Mapping[int, SaeSpec]) -> Verdict | None:
    """One row's verdict; None where the column is empty. Raises ValueError."""
    layer, feature = _number(row, "layer"), _number(row, "feature")
    answer = row["verdict"].strip().lower()
    if not answer:
        return None
    known = next((a for a in ANSWERS if a in (answer, {"y": "yes", "n": "no"}.get(answer))), None)
    if known is None:
        raise ValueError(f"the verdict {row['verdict'][:40]!r} is none of {', '.join(ANSWERS)}")
    if layer not in saes:
        raise ValueError(f"layer {layer} has no SAE here; there are: {', '.join(map(str, saes))}")
    spec = saes[layer]
    if row.get("sae_id") and row["sae_id"] != spec.sae_id:
        raise ValueError(
            f"the row is about another SAE ({row['sae_id'][:12]}) than that of layer {layer} ({spec.sae_id[:12]})"
        )
    if feature >= spec.d_sae:
        raise ValueError(f"no feature {feature}: the SAE of layer {layer} has features 0 to {spec.d_sae - 1}")
    note, explanation = _plain(row.get("note") or ""), _plain(row.get("explanation") or "")
    return Verdict(
        layer=layer, feature=feature, answer=known, by="sheet", reply=note or None, explanation=explanation or None
    )


def _number(row: Mapping[str, str], name: str) -> int:
    text = row[name].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"the {name} {row[name][:40]!r} is not a number from 0 on")
    return int(text)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV as spreadsheets save it, with their lines: comma, semicolon or tab; UTF-8, or UTF-16 with its mark."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError("no such sheet", place=str(path), hint="write one first: sae review") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", place=str(path), hint="save it as CSV in UTF-8") from error
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    lacking = [name for name in ("layer", "feature", "verdict") if name not in (reader.fieldnames or ())]
    if lacking:
        raise UsageError(f"the sheet has no column {', '.join(lacking)}", place=str(path), hint="keep its first line")
    try:
        return [(reader.line_num, {k: v or "" for k, v in row.items() if k is not None}) for row in reader]
    except csv.Error as error:
        raise UsageError(f"no CSV: {error}", place=f"{path}:{reader.line_num}") from error


def _is_filled(path: Path) -> bool:
    try:
        return any(row["verdict"].strip() for _, row in _rows(path))
    except (UsageError, NotFoundError):
        return True  # something else: it is not ours to write over


def _csv(found: Sequence[LayerCandidates], evidence: Mapping[tuple[int, int], Evidence]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found:
        for c in one.picked:
            seen = evidence.get((one.layer, c.feature))
            contexts = " | ".join(context.marked() for context in seen.contexts[:_SHOWN]) if seen else ""
            explanation = (seen.explanation or "") if seen else ""
            score = format(c.score, ".4g")
            cells = [
                one.layer,
                c.feature,
                "",
                "",
                c.rank,
                score,
                c.n_sentences,
                _quoted(explanation),
                _quoted(contexts),
            ]
            writer.writerow([*cells, one.spec.sae_id])
    return out.getvalue()


def _markdown(found: Sequence[LayerCandidates], evidence: Mapping[tuple[int, int], Evidence], concept: str) -> str:
    lines = [
        f"# Features picked for {concept}",
        "",
        "Write yes, no or unclear into the column `verdict` of the CSV file beside this one: does the feature respond to the "
        "concept? A feature without a verdict is not used.",
    ]
    for one in found:
        for c in one.picked:
            seen = evidence.get((one.layer, c.feature))
            lines += ["", f"## Layer {one.layer}, feature {c.feature}", "", f"- {c.reason}; {c.n_sentences} sentences"]
            lines += [f"- fires on {c.rate_anchor:.0%} of anchor rows and {c.rate_control:.0%} of control rows"]
            if seen and seen.explanation:
                lines.append(f"- explanation: {_escaped(seen.explanation)}")
            for context in seen.contexts if seen else ():
                lines.append(f"- {context.value:.3g}: {_escaped(context.marked())}")
            if not seen or not seen.contexts:
                lines.append("- no text of the run makes it fire")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text as it is, in one line of Markdown."""
    one = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in one)


def _quoted(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(text: str) -> str:
    """A cell as it was before `_quoted`."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
