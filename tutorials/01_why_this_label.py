"""Tutorial 1: why did the classifier say so, and how far can the answer be trusted?

Runs as a script or cell by cell; the model ships with the package.
"""

# %% Two lines: a model, a text.
from captum_sig import LayerSequentialIntegratedGradients, TextClassificationExplainer, baselines
from captum_sig.demo_model import PATH

explainer = TextClassificationExplainer.from_pretrained(PATH)
explanation = explainer("The plot is thin, but the acting is superb.")
for word in explanation.words:
    print(f"{word.word:10} {word.score:+.3f}")

# The strongest word is the one without which the label's logit falls most; the weakest speaks
# against the label.
strongest = max(explanation.words, key=lambda word: word.score)
weakest = min(explanation.words, key=lambda word: word.score)
assert (explanation.label, strongest.word, weakest.word) == ("NEGATIVE", "thin", "superb")

# %% A score is a difference of two logits, and nothing else: check one by hand.
tokenizer, model = explainer.tokenizer, explainer.model
masked = explanation.text.replace("thin", tokenizer.mask_token)
target = explainer.label_index(explanation.target)
logits = [
    float(model(**tokenizer(text, return_tensors="pt")).logits[0, target].detach())
    for text in (explanation.text, masked)
]
assert abs(strongest.score - (logits[0] - logits[1])) < 1e-4

# %% Redundant evidence: two words that say the same. Each alone is hardly missed.
one, two = explainer(["a superb movie", "a superb, superb, superb, superb movie"])
alone = max(word.score for word in one.words)
repeated = [word.score for word in two.words if word.word == "superb"]
print(f"superb alone {alone:+.3f}, each of four {max(repeated):+.3f} at most")
assert max(repeated) < alone / 2

# %% Per-feature attributions by quadrature carry a measured error for each word.
ids = tokenizer(explanation.text, return_tensors="pt")["input_ids"]
sig = LayerSequentialIntegratedGradients(lambda ids: model(ids).logits, explainer.layer)
base = baselines.mask(tokenizer, ids)
for n_steps in (4, 16, 64):
    integral = sig.integrate(ids, base, target=target, n_steps=n_steps)
    print(f"{n_steps:3} nodes: worst word off by {integral.word_delta.abs().max():.1e} logits")
assert integral.word_delta.abs().max() < 1e-3
exact = sig.attribute_words(ids, base, target=target)
assert (integral.attributions.sum(-1) - exact).abs().max() < 1e-3
