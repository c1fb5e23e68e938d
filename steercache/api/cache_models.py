"""Loading models, and steered generation with stored vectors."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Literal

from steercache.api.cache_core import CacheCore
from steercache.core.operations import Operation, operation_text, read_operation
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vectors import SteeringVector

if TYPE_CHECKING:
    from steercache.models.spec import LoadedModel
    from steercache.queries.token_clause import TokenClause
    from steercache.steering.generate import SideBySide


class ModelMethods(CacheCore):
    """Loading models, and steered generation with stored vectors."""

    def model(
        self, name: str | PathLike[str], *, device: str = "auto", dtype: str = "auto", device_map: str | None = None
    ) -> "LoadedModel":
        """Load a model, with conversions kept in this cache; see `steercache.load`."""
        from steercache.api.models import load

        return load(name, device=device, dtype=dtype, device_map=device_map, root=self.root)

    def target(self, text: str) -> "TokenClause":
        """A target written as SQL, with the vectors of this cache that it names, for `steer`, `steercache.plan_target` and
        sweeps: "sql: list_inner_product(activation(12), vector('counting', 12)) > 3".

        Raises:
            QueryError: the SQL is wrong or not allowed, or a vector lacks the layer. NotFoundError: no such vector.
        """
        from steercache.queries.token_clause import read_token_clause

        return read_token_clause(text, self._session.vector)

    def model_of(
        self,
        vector: str | SteeringVector,
        model: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        allow_foreign: bool = False,
    ) -> "LoadedModel":
        """Load the model that a vector was fitted on, or the one that is named.

        Raises:
            UsageError: the vector does not record its model, or the model has other weights and that is not
                allowed. NotFoundError: no such vector or model.
        """
        from steercache.cells.vector_model import load_model_of

        direction = self._session.vector(vector) if isinstance(vector, str) else vector
        return load_model_of(
            self._session.cache, direction, model, device=device, dtype=dtype, allow_foreign=allow_foreign
        )

    def strength_at_kl(
        self,
        vector: str | SteeringVector,
        nats: float,
        *,
        layer: int,
        target: Target = "all",
        operation: Operation | str = "add",
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        allow_foreign: bool = False,
    ) -> float:
        """The raw strength at which the mean KL of the next token on unrelated prompts is `nats`, by the model of the vector.

        Negative `nats` ask for the opposite direction. It is kept in the cache, and is what the unit "kl" of grids and
        evaluations stands for.

        Raises:
            UsageError: the vector cannot reach it (what was seen is named), or has other weights. NotFoundError: no such vector
                or model.
        """
        from steercache.answers.kl_strengths import kl_strengths_of
        from steercache.cells.options import GridAxes

        direction = self._session.vector(vector) if isinstance(vector, str) else vector
        axes = GridAxes(
            layers=(layer,),
            alphas=(nats,),
            targets=(target,),
            alpha_unit="kl",
            operation=operation_text(read_operation(operation)),
        )
        loaded = self.model_of(direction, model, device=device, dtype=dtype, allow_foreign=allow_foreign)
        found = kl_strengths_of(self._session.cache, loaded.bundle, [direction], axes, load=lambda: loaded)
        return next(iter(found.values()))

    def generate(
        self,
        vector: str | SteeringVector,
        prompts: str | Sequence[str],
        *,
        layer: int,
        alphas: Sequence[float] = (1.0,),
        alpha_unit: AlphaUnit = "raw",
        operation: Operation | str = "add",
        target: "Target | str | TokenClause" = "all",
        when: Literal["prefill", "generated", "every"] = "prefill",
        skip_first: bool = False,
        n_generated: int | None = None,
        max_new_tokens: int = 20,
        chat: bool = False,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        allow_foreign: bool = False,
    ) -> "list[SideBySide]":
        """Texts with and without a stored vector, side by side, by the model it was fitted on; see `steercache.generate`.

        Texts are kept as the answers of a sweep; the same call again reads them.

        Raises:
            UsageError: a layer, target or strength that cannot be; other weights. NotFoundError: no such vector or model.
        """
        from steercache.api.generating import text_plan, write_texts

        plan = text_plan(
            prompts,
            layer=layer,
            alphas=alphas,
            alpha_unit=alpha_unit,
            operation=operation,
            target=target,
            when=when,
            skip_first=skip_first,
            n_generated=n_generated,
            max_new_tokens=max_new_tokens,
            chat=chat,
        )
        direction = self._session.vector(vector) if isinstance(vector, str) else vector
        return write_texts(
            self._session.cache, direction, plan, model=model, device=device, dtype=dtype, allow_foreign=allow_foreign
        ).texts
