"""Which model files a name stands for, and what a bad one says."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import Config
from agent.engines import Engine
from agent.policies import models
from agent.policies.base import PolicyFailure
from agent.policies.models import ModelError, model_identity, resolve_model
from agent.policies.transformers import load_model
from agent.training.adapter import save_adapter
from agent.training.lora import LoraSettings, train
from tests.agent.sequences import sequence
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]


def weights(path: Path, fill: int = 0, size: int = 64) -> None:
    """A real, tiny safetensors file: one F32 tensor."""
    header = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes([fill]) * size)


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    folder = tmp_path / "chat model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "transformers_version": "5.0"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    weights(folder / "model.safetensors")
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub library cannot reach anything and has nothing cached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(str(name))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_local_folder(chat_model: Path) -> None:
    assert resolve_model(str(chat_model)) == chat_model


def test_template_may_lie_in_the_tokenizer_config(chat_model: Path) -> None:
    (chat_model / "chat_template.jinja").unlink()
    (chat_model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert resolve_model(str(chat_model)) == chat_model


def test_no_chat_model(chat_model: Path) -> None:
    (chat_model / "chat_template.jinja").unlink()
    expected = f"{chat_model} is no chat model: its tokenizer has no chat template"
    assert refusal(chat_model) == expected


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no weights"),
    ],
)
def test_incomplete_folder(chat_model: Path, missing: str, says: str) -> None:
    (chat_model / missing).unlink()
    assert says in refusal(chat_model)


def test_adapter_is_no_model(chat_model: Path) -> None:
    (chat_model / "config.json").rename(chat_model / "adapter_config.json")
    assert "name the base model" in refusal(chat_model)


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_truncated_weights(chat_model: Path, keep: int) -> None:
    file = chat_model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "truncated" in refusal(chat_model)
    with pytest.raises(ModelError, match="truncated"):
        model_identity(chat_model)


def test_broken_config(chat_model: Path) -> None:
    (chat_model / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal(chat_model)


@pytest.mark.parametrize("name", ["", "no-such-model", "./nowhere", "a/b/c", "/no/where"])
def test_no_such_model(name: str) -> None:
    assert "there is no model" in refusal(name)


def test_file_is_no_folder(chat_model: Path) -> None:
    assert "name the folder" in refusal(chat_model / "model.safetensors")


@pytest.mark.usefixtures("no_network")
def test_hub_id_without_network() -> None:
    assert "cannot fetch the model owner/name" in refusal("owner/name")


def test_identity_follows_content(chat_model: Path, tmp_path: Path) -> None:
    first = model_identity(chat_model)
    copy = shutil.copytree(chat_model, tmp_path / "copy")
    (copy / "config.json").write_text('{"model_type": "llama", "transformers_version": "5.1"}')
    assert model_identity(copy) == first, "the library's version is not content"

    weights(copy / "model.safetensors", fill=1)
    assert model_identity(copy) != first, "same shape, other numbers"
    weights(copy / "model.safetensors")
    assert model_identity(copy) == first

    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        changed = shutil.copytree(chat_model, tmp_path / name)
        (changed / name).write_text('{"changed": 1}')
        assert model_identity(changed) != first, name


def test_default_is_a_chat_model_ready_to_use() -> None:
    """The real one: converted (or cached), whole, with its chat template and padding set."""
    from transformers import AutoConfig, AutoTokenizer

    folder = resolve_model("default")
    assert resolve_model(str(folder)) == folder
    assert AutoConfig.from_pretrained(folder).num_hidden_layers == 30
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.padding_side) == ("<|im_end|>", "left")
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def cached_copy(cache: Path) -> Path:
    """A cache that holds the converted default model, by hard links where possible."""
    source = resolve_model("default")
    target = cache / "models" / source.name
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            os.link(file, target / file.name) if same_disk(file, cache) else shutil.copy(
                file, target
            )
        else:
            shutil.copy(file, target)
    return target


def same_disk(a: Path, b: Path) -> bool:
    return a.stat().st_dev == b.stat().st_dev


@pytest.mark.timeout(240)
def test_half_written_cache_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model_identity(resolve_model("default"))
    target = cached_copy(tmp_path)
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path))
    assert resolve_model("default") == target
    before = target.stat().st_ino

    (target / "COMPLETE").unlink()
    (target / "model.safetensors").unlink()
    stale = tmp_path / "models" / ".partial-killed"
    stale.mkdir()
    program = "from agent.policies.models import resolve_model; print(resolve_model('default'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{target}\n", ""), done.stderr
    assert target.stat().st_ino != before
    assert model_identity(target) == whole
    assert {p.name for p in target.parent.iterdir()} == {".lock", target.name}


def test_wrong_size_or_source_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("abc")
    marker = tmp_path / "COMPLETE"
    marker.write_text(json.dumps({"source": "1 0.1", "files": {"f": 3}}))
    assert models._is_complete(tmp_path, "1 0.1")
    assert models._is_complete(tmp_path, None)
    assert not models._is_complete(tmp_path, "1 0.2")
    (tmp_path / "f").write_text("ab")
    assert not models._is_complete(tmp_path, "1 0.1")
    for garbage in ("", "[]", '{"files": 3}', "{}"):
        marker.write_text(garbage)
        assert not models._is_complete(tmp_path, "1 0.1"), garbage


def test_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be: even root cannot write there."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "file"))
    message = refusal("default")
    assert "cannot write the model cache" in message and "INSTAR_CACHE" in message


@pytest.mark.usefixtures("no_network")
def test_missing_package_says_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "PACKAGE", "instar-no-such-package")
    message = refusal("default")
    assert "make setup" in message and "--no-deps" in message


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path))
    assert models.cache_dir() == tmp_path / "models"
    monkeypatch.delenv("INSTAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_dir() == tmp_path / "instar" / "models"


def test_a_model_that_scales_its_logits_is_refused(tmp_path: Path) -> None:
    """The engine asks ``lm_head`` itself, so what a model does behind it would be lost."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from agent.policies.transformers import load_model

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16}
    config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, logits_scaling=8.0)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(str(resolve_model("default"))).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"behind lm_head.*logits_scaling"):
        load_model(tmp_path)


def test_layers_that_see_less_than_the_context_are_refused(tmp_path: Path) -> None:
    """Acting and training would let them see everything, and be another model than is served."""
    from transformers import MistralConfig, MistralForCausalLM, Qwen2Config

    from agent.policies.transformers import TransformersPolicy, window

    folder = tiny_model(tmp_path / "tiny")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260}  # fmt: skip
    MistralForCausalLM(MistralConfig(**sizes, sliding_window=64)).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"policy\.context is 128, .* see 64 .*policy\.context=64"):
        TransformersPolicy(folder, context=128, dtype="float32")
    TransformersPolicy(folder, context=64, dtype="float32").close()
    long = sequence(1)
    long = long._replace(token_ids=long.token_ids + (5,) * 99, loss_mask=long.loss_mask + (1,) * 99)
    with pytest.raises(PolicyFailure, match="the model reads 64"):
        train(folder, [long], LoraSettings(), tmp_path / "a", seed=0, manifest={})
    assert window(Qwen2Config(sliding_window=64, use_sliding_window=False)) is None


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    """Transformers would take random ones, other ones at each loading."""
    from safetensors.torch import load_file, save_file

    file = tiny_model(tmp_path / "tiny") / "model.safetensors"
    whole = load_file(file)
    lost = "model.layers.1.mlp.up_proj.weight"
    for kept in (
        {name: w for name, w in whole.items() if name != lost},
        {f"_orig_mod.{name}": w for name, w in whole.items()},
        whole | {lost: whole[lost][:-1].contiguous()},
    ):
        save_file(kept, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks \d+ of its weights|cannot be loaded") as said:
            load_model(file.parent, dtype="float32")
        assert "\n" not in str(said.value)
    save_file(whole, file, metadata={"format": "pt"})
    load_model(file.parent, dtype="float32")


@pytest.mark.parametrize("wrong", [{"hidden_size": "abc"}, {"num_attention_heads": 0}])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, wrong: dict[str, object]) -> None:
    config = tiny_model(tmp_path / "tiny") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | wrong))
    with pytest.raises(ModelError, match="cannot be loaded") as said:
        load_model(config.parent)
    assert "\n" not in str(said.value)


def test_an_adapter_acts_on_the_model_that_it_was_made_on(tmp_path: Path) -> None:
    one, other = (tiny_model(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    told = {"model": model_identity(other), "sources": []}
    save_adapter(tmp_path / "a", lambda target: (target / "w").write_text("w"), told)
    policy = {"engine": "transformers", "model": str(one)}
    engine = Engine(Config.model_validate({"policy": policy}), tmp_path / "log", print)
    with pytest.raises(ModelError, match="was made on another base model") as said:
        engine.policy(tmp_path / "a", "a1")
    assert model_identity(other) in str(said.value) and "\n" not in str(said.value)
