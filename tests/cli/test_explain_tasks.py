"""How the command's options reach each task's explainer."""

import json

import pytest

from captum_sig.cli import tasks, terminal
from captum_sig.demo_model import PATH
from tests.tiny_language_models import causal, chat_tokenizer

CALL = {"method": "sig", "truncation": True, "contexts": None, "interactions": None}
MADE = {"baseline": "mask", "level": "word", "seed": 0, "n_draws": 5}
READERS = [name for name in tasks.TASKS if name != "text-generation"]


@pytest.fixture
def taken(run, demo, monkeypatch):
    """Run the command with a stand-in for the explainer; return what this gets."""

    def command(*arguments, task, stdin=None, message=None, model="model"):
        calls = []

        def load(task, model, masked_lm, **options):
            def explainer(inputs, *positional, **keywords):
                calls.append((options, inputs, positional, keywords))
                result = demo("good")
                several = isinstance(inputs, list) and not isinstance(inputs[0], dict)
                return [result] * len(inputs) if several else result

            return explainer

        monkeypatch.setattr(terminal, "load_explainer", load)
        given = ["--task", task, *(["--model", model] if model else [])]
        result = run("explain", *given, "--format", "json", *arguments, stdin=stdin)
        assert "Traceback" not in result.output
        if message is not None:
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr.startswith("captum-sig: ")
            assert len(result.stderr.splitlines()) == 1
            assert message in result.stderr
            return None
        assert result.exit_code == 0, result.stderr
        (call,) = calls
        return call

    return command


@pytest.mark.parametrize(
    ("arguments", "inputs", "target"),
    [
        (["a"], "a", None),
        (["a", "b"], ["a", "b"], None),
        (["a", "--target", "joy"], "a", "joy"),
        (["a", "--target", "all"], "a", "all"),
        (["a", "--target", ">0.5"], "a", ">0.5"),
        (["a", "--target", "joy", "--target", "anger"], "a", ("joy", "anger")),
        (["a", "--pair", "b"], ("a", "b"), None),
        (["a", "c", "--pair", "b"], [("a", "b"), ("c", "b")], None),
        (["a", "--pair", "b", "--pair", "c"], [("a", "b"), ("a", "c")], None),
        (["a", "--chat"], [{"role": "user", "content": "a"}], None),
    ],
)
def test_text_classification(taken, arguments, inputs, target):
    assert taken(*arguments, task="text-classification") == (MADE, inputs, (target,), CALL)


def test_pairs_from_stdin(taken):
    stdin = "a\tb\nc\td\n"
    found = taken("-", "--stdin-format", "tsv", task="text-classification", stdin=stdin)
    assert found[1] == [("a", "b"), ("c", "d")]


def test_options_of_all_readers(taken):
    found = taken(
        "a", "--level", "token", "--seed", 3, "--n-draws", 2, "--method", "ig", "--contexts",
        "two_sided", "--interactions", 2, "--top", 4, "--no-truncation", "--smooth", 8, "--noise",
        0.1, "--baseline", "mask", "--baseline", "pad", task="text-classification",
    )  # fmt: skip
    assert found[0] == {"baseline": ["mask", "pad"], "level": "token", "seed": 3, "n_draws": 2}
    assert found[3] == {
        "method": "ig", "truncation": False, "contexts": "two_sided", "interactions": 2, "top": 4,
        "smooth": 8, "noise": 0.1,
    }  # fmt: skip


def test_zero_shot(taken):
    task = "zero-shot-classification"
    found = taken("a", "--candidates", "art, the law", "--candidates", "sports", task=task)
    assert found == (MADE, "a", (["art", "the law", "sports"],), {**CALL, "multi_label": False})
    found = taken(
        "a", "b", "--candidates", "art", "--multi-label", "--words", "both",
        "--hypothesis-template", "About {}.", task=task,
    )  # fmt: skip
    own = {"multi_label": True, "words": "both", "hypothesis_template": "About {}."}
    assert found == (MADE, ["a", "b"], (["art"],), CALL | own)
    found = taken("a", "--candidates", "art,law", "--target", "law", task=task)
    assert found[2:] == ((["art", "law"],), {**CALL, "multi_label": False, "target": ["law"]})
    taken("a", task=task, message="there is no candidate label: pass --candidates")
    taken("a", "--candidates", ",", task=task, message="there is no candidate label")


def test_token_classification(taken):
    task = "token-classification"
    assert taken("a", task=task) == (MADE, "a", (None,), CALL)
    found = taken("a", "--span", "0:5:PER", "--span", "7:9", "--aggregation", "max", task=task)
    assert found == (
        MADE | {"aggregation_strategy": "max"}, "a", ([(0, 5, "PER"), (7, 9)],), CALL,
    )  # fmt: skip
    taken("a", "b", "--span", "0:5", task=task, message="--span is of one text, got 2: pass one")


@pytest.mark.parametrize("span", ["", "5", "a:b", "0:5:", "-1:3", "1:²", ":", "1:2:PER:x"])
def test_spans_that_are_none(taken, span):
    if span != "1:2:PER:x":  # a label may have a colon
        message = f"--span {span!r} is not START:END or START:END:LABEL with numbers"
        taken("a", f"--span={span}", task="token-classification", message=message)
    message = f"--span {span!r} is not START:END with numbers of characters, such as 0:5"
    taken("a", "--context", "b", f"--span={span}", task="question-answering", message=message)


def test_question_answering(taken):
    task = "question-answering"
    assert taken("who?", "--context", "me", task=task) == (MADE, ("who?", "me"), (None,), CALL)
    found = taken("who?", "where?", "--context", "me", "--target", "me", task=task)
    assert found[1:3] == ([("who?", "me"), ("where?", "me")], ("me",))
    assert taken("who?", "--context", "", task=task)[1] == ("who?", "")
    found = taken("who?", "--context", "me", "--span", "0:2", task=task)
    assert found[2] == ((0, 2),)
    stdin = '{"question": "who?", "context": "me"}\n'
    assert taken("-", "--stdin-format", "jsonl", task=task, stdin=stdin)[1] == ("who?", "me")
    taken("who?", task=task, message="question-answering reads two texts: pass the second by --con")
    for more in (["--span", "0:1", "--target", "me"], ["--span", "0:1", "--span", "1:2"]):
        taken("a", "--context", "b", *more, task=task, message="there is one answer to explain")
    taken("a", "--context", "b", "--target", "c", "--target", "d", task=task,
          message="question-answering has one target, got 2: pass one --target")  # fmt: skip


def test_fill_mask(taken):
    task = "fill-mask"
    assert taken("a [MASK]", task=task) == (MADE, "a [MASK]", (None,), CALL)
    found = taken("a", "b", "--target", "good", "--target", "bad", "--top-k", 3, task=task)
    assert found == (MADE, ["a", "b"], (("good", "bad"),), {**CALL, "top_k": 3})


def test_sentence_similarity(taken):
    task = "sentence-similarity"
    assert taken("a", "--pair", "b", task=task) == (MADE, ("a", "b"), (), CALL)
    found = taken(
        "a", "--pair", "b", "--pair", "c", "--pooling", "cls", "--similarity", "dot", task=task
    )
    assert found[:2] == (MADE | {"pooling": "cls", "similarity": "dot"}, ("a", ["b", "c"]))
    taken("a", task=task, message="sentence-similarity reads two texts: pass the second by --pair")


def test_text_generation(taken, tmp_path):
    task = "text-generation"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    own = {"contrast": None, "attribute_target": False, "contexts": None, "interactions": None}
    made = {name: MADE[name] for name in ("baseline", "level", "seed")}
    found = taken("--messages", tmp_path / "chat.json", "--target", "x", task=task)
    assert found == (made, [chat], ("x", {}), own)
    found = taken("a", "--chat", "--max-new-tokens", 3, task=task)
    assert found == (made, [[{"role": "user", "content": "a"}]],
                     (None, {"max_new_tokens": 3}), own)  # fmt: skip
    (tmp_path / "chat.json").write_text("[{}]")
    taken("--messages", tmp_path / "chat.json", task=task, message="chat.json has no role and con")
    taken("--messages", tmp_path / "none", task=task, message="there is no file")
    taken("a", "--target", "b", "--target", "c", task=task, message="text-generation has one tar")


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("fill-mask", ["--chat"], "--chat is for text-classification and text-generation: leave"),
        ("fill-mask", ["--pair", "b"], "--pair is for text-classification and sentence-similarity"),
        ("fill-mask", ["--candidates", "b"], "--candidates is for zero-shot-classification only"),
        ("fill-mask", ["--context", "b"], "--context is for question-answering only: leave it out"),
        ("fill-mask", ["--span", "0:1"], "--span is for token-classification and question-answ"),
        ("question-answering", ["--pair", "b"], "--pair is for text-classification and sentence-"),
        ("token-classification", ["--target", "b"], "--target is not for token-classification"),
        ("sentence-similarity", ["--target", "b"], "--target is not for sentence-similarity"),
        ("text-generation", ["--smooth", "2"], "--smooth is not for text-generation: leave it out"),
        ("text-classification", ["--words", "both"], "--words is for zero-shot-classification onl"),
    ],
)
def test_options_of_other_tasks_are_refused(taken, task, arguments, message):
    taken("a", *arguments, task=task, message=message)


@pytest.mark.parametrize("task", READERS)
def test_chats_and_pairs_where_they_are_not_read(taken, task):
    for stdin in (
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"text": "a", "text_pair": "b"}',
    ):
        is_pair = "text_pair" in stdin
        if "messages" in tasks.TASKS[task].options or (
            is_pair and tasks.TASKS[task].sides != "one"
        ):
            continue
        candidates = ["--candidates", "a"] if task.startswith("zero-shot") else []
        read = "single texts, got a pair" if is_pair else "texts, got the messages of a chat"
        taken("-", "--stdin-format", "jsonl", *candidates, task=task, stdin=stdin,
              message=f"{task} reads {read}: pass texts")  # fmt: skip


@pytest.mark.parametrize("task", [name for name in tasks.TASKS if name != "text-classification"])
def test_other_tasks_have_no_model_by_default(taken, task):
    second = {"question-answering": ["--context", "b"], "sentence-similarity": ["--pair", "b"]}
    taken("a", *second.get(task, []), task=task, model=None,
          message=f"no model for {task} is included: pass --model")  # fmt: skip


def test_the_task_is_that_of_the_model(run, tmp_path):
    causal("gpt2").save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    result = run("explain", "the movie is", "--model", tmp_path, "--target", " good", "--baseline",
                 "unk", "--format", "json")  # fmt: skip
    assert json.loads(result.stdout)["target"] == " good"
    refused = run("explain", "the movie is", "--model", tmp_path, "--method", "ig")
    assert refused.stderr == ("captum-sig: --method is not for text-generation: leave it out\n")
    result = run("explain", "It's not good.", "--model", PATH, "--format", "json")
    assert json.loads(result.stdout)["task"] == "text-classification"


def test_a_model_for_another_task(run):
    pytest.importorskip("captum_sig.explainers.fill_mask")
    result = run("explain", "a", "--model", PATH, "--task", "fill-mask")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "holds a BertForSequenceClassification, which FillMaskExplainer does" in result.stderr
