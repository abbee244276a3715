"""Fine-tune a small decoder with LoRA on a new task, and rank what changed, head by head.

    pip install peft transformers
    python examples/lora_finetune.py

The base model learns to continue rows that repeat after 16 tokens. The new rows repeat after 11
tokens. The first capture (step 0) shows the base model, later ones how the adapters change it.
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import tracker_viz as tv

BOS, VOCABULARY, LENGTH = 0, 65, 48
OLD_PERIOD, NEW_PERIOD = 16, 11


def batch(period: int, rows: int = 32) -> torch.Tensor:
    """Return rows of [BOS] and repeated random tokens, int64 [row, token]."""
    unit = torch.stack([torch.randperm(VOCABULARY - 1)[:period] + 1 for _ in range(rows)])
    repeated = unit.repeat(1, LENGTH // period + 1)[:, : LENGTH - 1]
    return torch.cat([torch.full((rows, 1), BOS), repeated], dim=1)


def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, period: int
) -> torch.Tensor:
    """Train on one batch and return its loss."""
    ids = batch(period)
    labels = ids.clone()
    labels[:, : period + 1] = -100  # the first copy cannot be predicted
    loss = model(input_ids=ids, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def pretrained(steps: int) -> LlamaForCausalLM:
    """Train a small base model. Load your own here: LlamaForCausalLM.from_pretrained(...)."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        loss = train_step(model, optimizer, OLD_PERIOD)
        if step % 50 == 0:
            print(f"base model, step {step}: loss {loss:.2f}")
    return model


def main(steps: int = 200, base_steps: int = 300) -> None:
    """Fine-tune, print which heads changed most, and render the video."""
    torch.manual_seed(0)
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(pretrained(base_steps), lora)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    # The probe: a row of the new task, and a row of the old task in place of text.
    old_row = batch(OLD_PERIOD, rows=1)[0]
    probe = tv.make_probe(VOCABULARY, LENGTH, text_ids=old_row, bos_id=BOS, period=NEW_PERIOD)

    with tv.watch(model, probe=probe, run="local", spool="lora", total_steps=steps) as recorder:
        for step in range(1, steps + 1):
            loss = train_step(model, optimizer, NEW_PERIOD)
            recorder.step(step, loss=loss)

    # The same as a command: tracker-viz compare runs=[local:lora] steps=[0,null]
    changed = tv.compare_steps(["local:lora"], steps=[0, None])
    print("What fine-tuning changed, head by head, the most changed attention first:")
    for change in changed.heads:
        print(f"  {change}")
    print(f"Before and after: {changed.picture}")
    tv.render("local:lora")  # try also layout="weights" and layout="adapters"


if __name__ == "__main__":
    main()
