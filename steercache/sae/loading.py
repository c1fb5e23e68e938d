"""An SAE to memory, through sae-lens' own loaders: no weight format is parsed here."""

import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steercache.core.errors import BudgetError, DamagedError, NotFoundError, SteercacheError, UsageError
from steercache.core.excerpts import reason_of
from steercache.core.saes import SaeSpec
from steercache.manifests.problems import close_match
from steercache.manifests.sae import FolderSae, ReleaseSae, SaeManifest, ShippedSae
from steercache.sae import llama_scope, sparsify
from steercache.sae.checks import check_computes, check_config, check_module
from steercache.sae.find import CONFIG, FoundSae, find_sae
from steercache.sae.hooks import site_of
from steercache.sae.hub_files import hub_files, refuse_large_file
from steercache.sae.library import sae_lens
from steercache.sae.loaded import LoadedSae, weights_id
from steercache.sae.sparsify import from_disk
from steercache.zoo.saes import sae_folder

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
_MENDED = {"sparsify": sparsify.from_hub, "llama_scope": llama_scope.from_hub}  # sae-lens' loaders, put right
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def load_sae(
    source: SaeManifest | str | os.PathLike[str],
    *,
    layer: int | None = None,
    base_dir: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> LoadedSae:
    """Load an SAE: a manifest (object, name or file), one layer of a manifest as `NAME-l12`, or a folder of sae-lens.

    A release of sae-lens is read from the hub's cache (`HF_HUB_CACHE`); what is not there is fetched into it, unless
    `HF_HUB_OFFLINE` is set. `layer` chooses among the SAEs of a manifest that lists several; `base_dir` is what the paths of a
    manifest object are relative to. `device` "auto" is the first accelerator, or the CPU. `dtype` is what the SAE computes in,
    and part of its identity.

    Raises:
        NotFoundError: no such manifest, folder, release or id, or its files are not on this machine and cannot be fetched.
        DamagedError: the files are not what they should be. UsageError: an SAE that cannot encode single rows of a run.
        BudgetError: it does not fit into memory. MissingExtraError: sae-lens is not installed.
    """
    if dtype not in _DTYPES:
        raise UsageError(f"an SAE cannot compute in {dtype!r}", hint=f"choose one of: {', '.join(_DTYPES)}")
    found = find_sae(source, layer=layer, base_dir=base_dir)
    sae_lens()
    from steercache.models.load import resolve_device  # imports transformers, as sae-lens does

    place_of_work = resolve_device(device)
    manifest = found.manifest
    if isinstance(manifest.source, FolderSae):
        module, origin = _from_folder(manifest.source, found.base_dir / found.sae, dtype)
    elif isinstance(manifest.source, ShippedSae):
        folder = sae_folder(manifest.source.name)
        module, _ = _from_folder(FolderSae(type="folder", folder=str(folder)), folder, dtype)
        origin = {"zoo": manifest.source.name}
    else:
        module, origin = _from_release(manifest.source, found.sae, dtype)
    place = str(origin.get("folder") or origin.get("zoo") or f"{origin['release']}/{origin['sae_id']}")
    _own_memory(module)
    check_module(module, place=place)
    with _explaining(place):
        check_computes(module, place=place)
    form = None if isinstance(manifest.source, ShippedSae) else manifest.source.format
    said = {"model": manifest.model, "format": form if form != "sae_lens" else None}
    spec = spec_of(module, name=found.name, source={**origin, **{name: v for name, v in said.items() if v}})
    _check_layer(found, spec, place)
    return LoadedSae(module.to(device=place_of_work), spec)


def spec_of(module: Any, *, name: str, source: Mapping[str, Any]) -> SaeSpec:
    """What a module of sae-lens is."""
    cfg, said = module.cfg, module.cfg.metadata
    site, layer = site_of(said.hook_name)
    return SaeSpec(
        sae_id=weights_id(module),
        name=name,
        source=source,
        architecture=cfg.architecture(),
        d_in=int(cfg.d_in),
        d_sae=int(cfg.d_sae),
        model_name=said.model_name,
        site=site,
        layer=layer,
        prepend_bos=said.prepend_bos,
        context_size=said.context_size,
        neuronpedia_id=said.neuronpedia_id,
        trained_as=said.training_architecture,
        weight_processing=tuple(sorted(k for k, v in (said.model_from_pretrained_kwargs or {}).items() if v is True)),
    )


def _from_folder(source: FolderSae, folder: Path, dtype: str) -> tuple[Any, dict[str, Any]]:
    from sae_lens.loading import pretrained_sae_loaders as loaders

    place = str(folder)
    of_sparsify = source.format == "sparsify"
    _check_files(folder, weights=loaders.SPARSIFY_WEIGHTS_FILENAME if of_sparsify else loaders.SAE_WEIGHTS_FILENAME)
    with _explaining(place), hub_files():
        get_config = loaders.get_sparsify_config_from_disk if of_sparsify else loaders.get_sae_lens_config_from_disk
        config = get_config(folder)
        training = config.get("architecture") in _training_only()
        check_config(config if training else loaders.handle_config_defaulting(config), place=place, training=training)
        converter = from_disk if of_sparsify else _inference_of_training if training else loaders.sae_lens_disk_loader
        module = sae_lens().SAE.load_from_disk(folder, device="cpu", dtype=dtype, converter=converter)
    return module, {"folder": str(folder.resolve())}


def _own_memory(module: Any) -> None:
    """Weights of safetensors files are maps of the file: written over, it would change the SAE, and cut short, end Python."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


def _check_files(folder: Path, *, weights: str) -> None:
    place = str(folder)
    if not (folder / CONFIG).is_file():
        raise NotFoundError(f"no SAE folder: there is no {CONFIG}", place=place)
    refuse_large_file(folder / CONFIG)
    if (folder / weights).is_file():
        refuse_large_file(folder / weights)
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UsageError(
            f"its weights are a pickle ({pickles[0]}), which can run code when it is read and is never opened",
            place=place,
            hint=f"save the SAE again with sae-lens' save_model, which writes {weights}",
        )
    raise NotFoundError(f"no SAE folder: there is no {weights}", place=place)


def _from_release(source: ReleaseSae, sae_id: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.loading.pretrained_saes_directory import get_config_overrides, get_repo_id_and_folder_name

    release = source.release
    place = f"{release}/{sae_id}"
    listed = _check_listed(source, sae_id)
    layout = loaders.get_conversion_loader_name(release) if listed else source.format or "sae_lens"
    repository, inside = get_repo_id_and_folder_name(release, sae_id)
    with _explaining(place, fetch=f"hf download {repository} --include '{inside}*'"):
        with hub_files(revision=source.revision) as read:
            get_config = loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[layout]
            config = get_config(repository, inside, "cpu", False, get_config_overrides(release, sae_id))
            check_config(loaders.handle_config_defaulting(config), place=place)
            converter = _MENDED.get(layout) or loaders.NAMED_PRETRAINED_SAE_LOADERS[layout]
            module = sae_lens().SAE.from_pretrained(release, sae_id, device="cpu", dtype=dtype, converter=converter)
        origin = {"release": release, "sae_id": sae_id, "repository": repository, "revision": read.revision}
    return module, origin


def _check_listed(source: ReleaseSae, sae_id: str) -> bool:
    """Whether sae-lens lists the release. Raises NotFoundError where it lists neither release nor id, UsageError for a format
    beside a release."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release, listed = source.release, get_pretrained_saes_directory()
    if release not in listed:
        if "/" in release:
            return False
        raise NotFoundError(f"sae-lens lists no release {release!r}{close_match(release, listed)}")
    ids = listed[release].saes_map
    if sae_id not in ids:
        raise NotFoundError(
            f"the release has no SAE {sae_id!r}{close_match(sae_id, ids)}",
            place=release,
            hint=f"one of: {', '.join(list(ids)[:5])}{', ...' if len(ids) > 5 else ''}",
        )
    if source.format is not None:
        raise UsageError(
            "the format of a release that sae-lens lists is known", place=release, hint="leave `format` out"
        )
    return True


def _training_only() -> frozenset[str]:
    """Architectures that exist while an SAE is trained only; sae-lens saves them as another one."""
    known = sae_lens().registry
    return frozenset(set(known.SAE_TRAINING_CLASS_REGISTRY) - set(known.SAE_CLASS_REGISTRY))


def _inference_of_training(
    path: str | Path, device: str, cfg_overrides: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A loader for sae-lens of a checkpoint that its trainer wrote: what its `save_inference_model` would write."""
    dtype = (cfg_overrides or {}).get("dtype")
    training = sae_lens().TrainingSAE.load_from_disk(path, device=device, dtype=dtype)
    state = {name: tensor.detach() for name, tensor in training.state_dict().items()}
    training.process_state_dict_for_saving_inference(state)
    return {**training.cfg.get_inference_sae_cfg_dict(), "device": device}, state


def _check_layer(found: FoundSae, spec: SaeSpec, place: str) -> None:
    if found.layer is not None and spec.layer is not None and found.layer != spec.layer:
        raise UsageError(
            f"it was requested as the SAE of layer {found.layer}, and its configuration says layer {spec.layer}",
            place=place,
        )


@contextmanager
def _explaining(place: str, *, fetch: str | None = None) -> Iterator[None]:
    """Turn what sae-lens and the libraries below it raise over files into an error with a place and a way out."""
    import httpx
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, HFValidationError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `check_module` says what matters of them
            yield
    except (SteercacheError, KeyboardInterrupt):
        raise
    except GatedRepoError as error:
        way = f"accept its terms on the hub, then `hf auth login`; or {fetch} on a machine that may"
        raise NotFoundError("the hub's repository is gated", place=place, hint=way) from error
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, httpx.HTTPError) as error:
        raise NotFoundError(
            "its files are not in the hub's cache on this machine, and cannot be fetched", place=place, hint=fetch
        ) from error
    except pickle.UnpicklingError as error:
        raise DamagedError(
            "its weights hold other things than tensors, which are never unpickled", place=place, hint=fetch
        ) from error
    except MemoryError as error:
        raise BudgetError("it does not fit into memory", place=place, hint="take a narrower SAE") from error
    except Exception as error:  # anything: the files are outside input to a library that raises what it likes
        why = " ".join(reason_of(error, lines=3, n=300).split())
        raise DamagedError(
            f"sae-lens cannot load it: {type(error).__name__}: {why}", place=place, hint=fetch
        ) from error
