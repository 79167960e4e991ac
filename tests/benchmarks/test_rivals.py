"""The benchmark of rivals: all see the same words, and their rows are counted exactly."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_sig.demo_model import PATH
from tests.benchmarks import rivals, rivals_report
from tests.benchmarks.permutations import estimate
from tests.benchmarks.rivals_apart import Apart, answer, asked
from tests.benchmarks.rivals_methods import RIVALS, Game, Question
from tests.benchmarks.rivals_subjects import Subject, classification, generation, prompts

TEXTS = ["Uninspiredly dull!", "A charming film.", "Bad", "It isn't zqxvory at all, or too long."]
SAMPLERS = [name for name, one in RIVALS.items() if one.samples and "classification" in one.tasks]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "texts.tsv"
    path.write_text("sentence\n" + "".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def subject(data) -> Subject:
    return classification("demo", data, len(TEXTS), seed=0, n_words=(2, 9))


@pytest.fixture(scope="module")
def question(subject) -> Question:
    """A word of several tokens, and others."""
    question = subject.texts[-1].question
    assert question.text == TEXTS[-1]
    assert max(map(len, question.words)) > 1
    return replace(question, rows=2 * (len(question.words) + 1))


def counted(subject: Subject, call):
    """The rows that the model returns while a call runs."""
    rows = []
    hook = subject.model.register_forward_hook(lambda *given: rows.append(len(given[2].logits)))
    try:
        return call(), sum(rows)
    finally:
        hook.remove()


def requires(rival: str) -> None:
    pytest.importorskip(RIVALS[rival].package)


def test_words_are_ours_and_cover_the_text(subject, question):
    assert [text.question.text for text in subject.texts] == [TEXTS[0], TEXTS[1], TEXTS[3]]
    assert "".join(question.pieces) == question.text
    for piece, (start, end) in zip(question.pieces, question.spans, strict=True):
        assert piece.strip() == question.text[start:end]
    moved = sorted(position for positions in question.words for position in positions)
    assert moved == list(range(1, len(question.ids) - 1))  # all but the special tokens


def test_the_game_is_the_explainers(subject, question):
    from captum_sig import TextClassificationExplainer

    masks = np.random.default_rng(0).random((9, len(question.words))) < 0.5
    explainer = TextClassificationExplainer(subject.model, subject.tokenizer, baseline="mask")
    ours = explainer.game(question.text, question.target)
    assert Game(subject.model, question)(masks) == pytest.approx(ours(masks), abs=1e-4)


def test_feature_ablation_gives_our_words_their_scores(subject, question):
    found = asked(subject.model, subject.tokenizer, "captum FeatureAblation", question)
    assert found.scores == pytest.approx(list(subject.ours(question, "sig")), abs=1e-4)
    assert (found.forward, found.backward) == (len(question.words) + 1, 0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_stays_in_its_rows(subject, question, name):
    requires(name)
    if name == "shapiq ProxySPEX":  # which finds nothing in a few rows
        question = replace(question, rows=400)
    if name == "shap Partition":  # SHAP splits four groups of words at once
        question = replace(question, rows=question.rows - 3)
    found, n_rows = counted(
        subject, lambda: asked(subject.model, subject.tokenizer, name, question)
    )
    again = asked(subject.model, subject.tokenizer, name, question)
    assert again.scores == found.scores  # the seed is the text's
    assert len(found.scores) == len(question.words)
    assert found.forward == n_rows
    exact = name in ("captum KernelShap", "captum Lime")
    assert question.rows * (1 if exact else 0.5) <= n_rows <= question.rows + 3


@pytest.mark.filterwarnings("ignore:Not all budget is required")
@pytest.mark.parametrize("name", [
    "captum ShapleyValueSampling", "captum KernelShap", "shap Partition", "shapiq KernelSHAP",
    "shapiq PermutationSamplingSV",
])  # fmt: skip
def test_with_many_rows_samplers_near_shapley_values(subject, name):
    requires(name)
    question = replace(subject.texts[1].question, rows=2000)  # four words
    game = Game(subject.model, question)
    exact = estimate(game, len(question.words), 400, torch.Generator().manual_seed(0)).values
    found = asked(subject.model, subject.tokenizer, name, question).scores
    near = 0.5 if name == "shap Partition" else 0.15  # whose tree keeps neighbours together
    assert found == pytest.approx(exact.tolist(), abs=near * float(exact.abs().max()))


def test_backward_rows_are_counted_apart(subject, question):
    def with_gradients():
        x = subject.model.get_input_embeddings()(torch.tensor([question.ids] * 3))
        subject.model(inputs_embeds=x).logits.sum().backward()
        Game(subject.model, question).values(torch.tensor([question.ids] * 2))
        return [0.0]

    found = answer(subject.model, True, with_gradients)
    assert (found.forward, found.backward) == (5, 5)  # all that could have one
    assert "forward" not in vars(subject.model)
    assert answer(subject.model, False, lambda: Game(subject.model, question)(
        [[True] * len(question.words)])).backward == 0  # fmt: skip


@pytest.mark.parametrize("name", ["gim-explain", "explainkit occlusion"])
def test_rivals_of_an_environment_of_their_own(subject, question, name):
    requires(name)
    found = asked(subject.model, subject.tokenizer, name, question)
    assert len(found.scores) == len(question.words)
    n_backward, n_words = int(RIVALS[name].gradients), len(question.words)
    assert (found.forward, found.backward) == (1 if n_backward else n_words + 2, n_backward)


def test_another_process_gives_the_same(subject, question):
    name = "captum KernelShap"
    apart = Apart(Path(sys.executable), PATH, "classification", name)
    try:
        found = apart(question)
        with pytest.raises(ValueError, match="captum KernelShap failed: IndexError"):
            apart(replace(question, target=7))
        assert apart(question).scores == found.scores  # it goes on
    finally:
        apart.close()
    here = asked(subject.model, subject.tokenizer, name, question)
    assert found.scores == pytest.approx(here.scores, abs=1e-4)
    assert (found.forward, found.backward) == (here.forward, here.backward)


def test_a_process_that_cannot_start_says_why_once(question, tmp_path):
    python = tmp_path / "python"
    python.write_text("""#!/bin/sh
echo started >> "$0.log"
echo '{"error": "ImportError: no gim", "ends": true}'
""")
    python.chmod(0o755)
    apart = Apart(python, PATH, "classification", "gim-explain")
    for _ in range(2):
        with pytest.raises(ValueError, match="gim-explain failed: ImportError: no gim"):
            apart(question)
    assert python.with_suffix(".log").read_text() == "started\n"


def test_a_run_measures_what_is_missing_and_records(data, tmp_path, monkeypatch, capsys):
    recorded = {}
    monkeypatch.setattr(rivals, "record", lambda name, tables, **more: recorded.update(tables))
    options = ["--data", str(data), "--folder", str(tmp_path), "--models", "demo",
               "--permutations", "20", "--permutation-texts", "2", "--words", "2", "9",
               "--record", "rivals",
               "--rivals", "captum FeatureAblation", "captum Lime", "lxt AttnLRP"]  # fmt: skip
    rivals.main(options)
    files = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.jsonl")}
    assert set(files) > {"captum Lime@sig-two_sided.jsonl", "shapley.jsonl", "sig-auto.jsonl"}
    rivals.main(options)
    for path in tmp_path.rglob("*.jsonl"):
        assert path.read_text(encoding="utf-8") == files[path.name]
    methods = {(row["method"], row["budget"], row["measure"]): row for row in recorded["methods"]}
    assert methods["sig", None, "log_odds"]["n"] == 3
    assert methods["sig", None, rivals_report.RANKS]["n"] == 2  # those of at most five words
    lime = methods["captum Lime", "sig:sampled16", "forward"]
    assert lime["mean"] == pytest.approx(methods["sig:sampled16", None, "forward"]["mean"])
    (missing,) = recorded["missing"]
    assert missing["method"] == "lxt AttnLRP"
    by_name = {(row["method"], row["measure"]): row for row in recorded["differences"]}
    shift = (
        methods["sig", None, "log_odds"]["mean"]
        - methods["sig:two_sided", None, "log_odds"]["mean"]
    )
    assert by_name["sig", "log_odds"]["mean"] == pytest.approx(shift)
    assert ("sig:two_sided", "log_odds") not in by_name
    assert "| demo | captum Lime | sig:two_sided |" in capsys.readouterr().out


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(PATH)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64,
                   initializer_range=0.5)
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def test_prompts_explain_the_likeliest_next_token(language_model, tmp_path):
    data = tmp_path / "texts.tsv"
    sentences = ["it is " + "not only long but " * n + "dull ." for n in (3, 4, 5, 6, 7, 8)]
    data.write_text("sentence\n" + "\n".join(sentences) + "\n", encoding="utf-8")
    subject = generation(language_model, data, 2, seed=0)
    assert [text.question.text for text in subject.texts] == list(prompts(data, 2, seed=0))
    for text in subject.texts:
        question = text.question
        n_words = len(question.words)
        game = Game(subject.model, question)
        assert game([[True] * n_words])[0] == pytest.approx(text.log_probability, abs=1e-5)
        masks = ~torch.eye(n_words, dtype=torch.bool)
        left_out = text.log_probability - game(masks)
        assert list(subject.ours(question, "sig")) == pytest.approx(left_out.tolist(), abs=1e-4)
        ablation = asked(
            subject.model, subject.tokenizer, "captum LLMAttribution FeatureAblation", question
        )
        assert ablation.scores == pytest.approx(left_out.tolist(), abs=1e-4)
        assert ablation.forward >= n_words + 1  # though it passes the model's hooks by


def test_every_rival_has_a_task_and_says_what_it_is():
    for name, rival in RIVALS.items():
        assert set(rival.tasks) <= {"classification", "generation"}, name
        assert rival.distribution
        assert not (rival.samples and rival.gradients)
    names = {
        rivals_report.file_name(f"{name}@{budget}")
        for name, budget in product(RIVALS, rivals.BUDGETS)
    }
    assert len(names) == len(RIVALS) * len(rivals.BUDGETS)
