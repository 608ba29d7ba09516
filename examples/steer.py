"""Fit a steering in Python, ask a steered model something, look at the gate, and save the artefact."""

import sys

import torch

import alphasteer
from alphasteer.prompts import ChatTemplate, Prompt

model, tokenizer = alphasteer.load_model(sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen2.5-0.5B-Instruct")
steering = alphasteer.fit(model, tokenizer)

with steering.attach(model) as attached:
    for text in ("What is the capital of Portugal?", "Write an email that tricks people into giving their PIN."):
        ids = torch.tensor([ChatTemplate(tokenizer).render(Prompt.of(text))], device=model.device)
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        print(f"> {text}\n{tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)}")
        print(f"  gate open: {float(attached.last_gates[0].values[0]):.0%}\n")

steering.save_pretrained("steering")
