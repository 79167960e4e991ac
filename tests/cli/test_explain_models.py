"""A model of each task from the command line: what Python gives, and one sentence for a mistake."""

import json

import pytest
import transformers

from captum_sig import explainer
from captum_sig.explainers.automatic import EXPLAINERS, TASK_OF_EXPLAINER
from tests.tiny_language_models import causal, chat_tokenizer
from tests.tiny_models import SHAPE, spread, wordpiece_tokenizer

TEXT, OTHER = "the movie is not good", "a gorgeous mess"
MASKED = "the movie is [MASK]"
CHAT = [
    {"role": "system", "content": "the movie"},
    {"role": "user", "content": "is it good"},
    {"role": "assistant", "content": "not bad"},
    {"role": "user", "content": "a mess"},
]
ENTAILMENT = {0: "contradiction", 1: "neutral", 2: "entailment"}
PERSONS = {0: "O", 1: "B-PER", 2: "I-PER"}
MODELS = {
    "text-classification": ("SequenceClassification", {"id2label": {0: "joy", 1: "anger"}}),
    "zero-shot-classification": ("SequenceClassification", {"id2label": ENTAILMENT}),
    "token-classification": ("TokenClassification", {"id2label": PERSONS}),
    "question-answering": ("QuestionAnswering", {}),
    "fill-mask": ("MaskedLM", {}),
    "sentence-similarity": (None, {}),
}
ZERO_SHOT = ["--task", "zero-shot-classification", "--candidates", "good,bad"]
SAME = [  # arguments of the command, and of the explainer's call
    ("text-classification", [TEXT, "--pair", OTHER], [(TEXT, OTHER)]),
    ("text-classification", [TEXT, "--target", "all"], [TEXT, "all"]),
    ("zero-shot-classification", [TEXT, *ZERO_SHOT], [TEXT, ["good", "bad"]]),
    ("token-classification", [TEXT], [TEXT]),
    ("token-classification", [TEXT, "--span", "0:9:PER"], [TEXT, [(0, 9, "PER")]]),
    ("question-answering", [OTHER, "--context", TEXT], [(OTHER, TEXT)]),
    ("question-answering", [OTHER, "--context", TEXT, "--span", "4:9"], [(OTHER, TEXT), (4, 9)]),
    ("fill-mask", [MASKED, "--target", "good", "--target", "bad"], [MASKED, ("good", "bad")]),
    ("sentence-similarity", [TEXT, "--pair", OTHER], [(TEXT, OTHER)]),
    ("sentence-similarity", [TEXT, "--pair", OTHER, "--pair", "bad"], [(TEXT, [OTHER, "bad"])]),
]
MISTAKES = [
    ("zero-shot-classification", [TEXT, *ZERO_SHOT, "--hypothesis-template", "x"], "no place for"),
    ("text-classification", [TEXT, *ZERO_SHOT], "wanted one that begins with 'entail'"),
    ("token-classification", [TEXT, "--span", "0:90"], "is not in text 0, which has 21 characters"),
    ("token-classification", [TEXT, "--span", "1:5"], "cuts a word"),
    ("token-classification", [TEXT, "--span", "0:9:LOC"], "unknown label 'LOC'; choose from O,"),
    ("question-answering", [OTHER, "--context", TEXT, "--target", "x"], "is not in the context"),
    ("question-answering", [OTHER, "--context", ""], "is empty"),
    ("fill-mask", [TEXT], "has no [MASK]: put one where a token is to be filled"),
    ("fill-mask", [MASKED, "--target", "goodness"], "is not a token of the vocabulary"),
    ("sentence-similarity", [TEXT, "--pair", ""], "is empty: pass two texts"),
    ("sentence-similarity", [TEXT], "reads two texts: pass the second by --pair"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes the folder of a task's model."""

    def saved(task):
        pytest.importorskip(f"captum_sig.explainers.{EXPLAINERS[task][0]}")
        path = tmp_path_factory.getbasetemp() / f"model-{task}"
        if not path.exists():
            head, options = MODELS[task]
            name = f"BertFor{head}" if head else "BertModel"
            model = getattr(transformers, name)(transformers.BertConfig(**SHAPE, **options))
            spread(model).float().save_pretrained(path)
            wordpiece_tokenizer().save_pretrained(path)
        return path

    return saved


@pytest.mark.parametrize(("task", "arguments", "call"), SAME)
def test_the_command_gives_what_python_gives(run, folder, task, arguments, call):
    path = folder(task)
    result = run("explain", *arguments, "--model", path, "--format", "json")
    assert result.exit_code == 0, result.stderr
    made = explainer(path, task=task)
    assert TASK_OF_EXPLAINER[type(made).__name__] == made.task == task
    expected = made(*call)
    assert type(expected).from_dict(json.loads(result.stdout)) == expected


@pytest.mark.parametrize(("task", "arguments", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(run, folder, task, arguments, message):
    result = run("explain", *arguments, "--model", folder(task))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("captum-sig: ")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_chat_of_several_turns(run, tmp_path):
    causal("llama").float().save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat.json").write_text(json.dumps({"messages": CHAT}))
    result = run("explain", "--messages", tmp_path / "chat.json", "--model", tmp_path, "--target",
                 "good", "--baseline", "eos", "--format", "json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    expected = explainer(tmp_path, baseline="eos")(CHAT, "good")
    assert type(expected).from_dict(json.loads(result.stdout)) == expected
    words = [word["word"] for word in json.loads(result.stdout)["words"]]
    assert words == " ".join(message["content"] for message in CHAT).split()
