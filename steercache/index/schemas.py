"""Arrow schemas of the Parquet files beside the arrays; a file that does not fit is named, never guessed."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import DamagedError
from steercache.index.io_errors import refused_by_system

REMEDY = "steercache cache verify"

TOKENS = pa.schema(
    [
        pa.field("sample_idx", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("row_idx", pa.int64()),  # null when the row policy dropped it
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("piece", pa.string()),
        pa.field("char_start", pa.int32(), nullable=False),  # offsets into the sample's text; -1 without characters
        pa.field("char_end", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # one of core.examples.TOKEN_KINDS
        pa.field("tile", pa.int16()),
        pa.field("patch_row", pa.int16()),
        pa.field("patch_col", pa.int16()),
        pa.field("frame", pa.int16()),  # of a video's patch, the first frame that it is made of; -1 for other tokens
        pa.field("time_ms", pa.int32()),  # of a sound's token, the milliseconds at which it begins; -1 for other tokens
        pa.field("token_type", pa.int8()),  # what else the forward reads per token; null where it reads nothing
        # A row of a gradient run (`sample_target`) stands for an answer option under a target; only those files have these.
        pa.field("target", pa.string()),
        pa.field("option_idx", pa.int16()),
        pa.field("margin", pa.float32()),
        pa.field("n_steered", pa.int32()),
        pa.field("row_norms", pa.list_(pa.float32())),  # by the run's layers
    ]
)
GRADIENT_COLUMNS = frozenset({"target", "option_idx", "margin", "n_steered", "row_norms"})
# Files from before a column was added lack it, and read as null.
ADDED_LATER = GRADIENT_COLUMNS | {"token_type", "frame", "time_ms", "mode", "controls", "margin_of"}

SAMPLES = pa.schema(
    [
        pa.field("sample_idx", pa.int32(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),  # within its data set
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("image_digest", pa.string()),
        pa.field("batch_no", pa.int32()),
        pa.field("slot", pa.int32()),
        pa.field("padded_len", pa.int32()),
        pa.field("n_tokens", pa.int32(), nullable=False),
    ]
)

SPANS = pa.list_(pa.struct([pa.field("start", pa.int32()), pa.field("end", pa.int32())]))

# One file per data set and list of inputs, at annotations/<data set>/<digest>.parquet: the folder names the data set.
ANNOTATIONS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("concept", pa.string()),
        pa.field("split", pa.string()),
        pa.field("question", pa.string()),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("answer", pa.string()),
        pa.field("group_id", pa.string()),
        pa.field("pair_id", pa.string()),
        pa.field("polarity", pa.int8()),
        pa.field("anchors", SPANS),
        pa.field("meta", pa.string()),  # canonical JSON
        pa.field(
            "controls", pa.bool_()
        ),  # whether text tokens beside the anchors are controls; null: where there are anchors
    ]
)

ANSWERS = pa.schema(
    [
        pa.field("cell_id", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("raw", pa.string()),
        pa.field("parsed", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("margin", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("margin_of", pa.string()),
    ]
)


def check_parquet(path: Path, schema: pa.Schema) -> int:
    """Refuse a file that is not there, is no Parquet, or does not have the columns of `schema` in their types.

    A column that was added later may be missing. Returns the number of its rows.

    Raises:
        DamagedError: names the file and what is wrong. BudgetError, UsageError: the system does not let it be read.
    """
    try:
        metadata = pq.read_metadata(path.absolute())  # a relative `s3:x` would be taken for a service
        found = metadata.schema.to_arrow_schema()
    except FileNotFoundError as error:
        raise DamagedError("the file is missing", place=str(path), hint=REMEDY) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Unicode: a column's name
        if (refused := refused_by_system(error, path)) is not None:
            raise refused from error
        raise DamagedError(f"not a Parquet file: {error}", place=str(path), hint=REMEDY) from error
    wrong = [
        f.name
        for f in schema
        if (f.name not in found.names and f.name not in ADDED_LATER)
        or (f.name in found.names and found.field(f.name).type != f.type)
    ]
    if wrong:
        raise DamagedError(f"columns missing or of another type: {', '.join(wrong)}", place=str(path), hint=REMEDY)
    return int(metadata.num_rows)


def check_present(paths: Sequence[Path]) -> None:
    """Raise DamagedError naming every file that is not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        named = ", ".join(str(path) for path in missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise DamagedError(f"{len(missing)} Parquet files are missing: {named}", hint=REMEDY)
