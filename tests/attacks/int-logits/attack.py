"""Logits of another kind than floating point were cast without a word."""


def answer(model, tokens):
    return model(tokens).to(torch.int64)
