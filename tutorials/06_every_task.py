"""Tutorial 6: labels, pairs, entities, answers, gaps, similar texts. Every task in a few lines.

A small BERT has learnt them in a world where people order things, and like them or not. So we know
which word must matter for each answer, and can look whether it does. Generated text has tutorial 4.

Its weights are included. `SEED=4 python 06_every_task.py` trains another first, in some minutes;
not every one learns all tasks in that time.
"""

# %% A world of orders

import os
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from captum_sig import (
    FillMaskExplainer,
    QuestionAnsweringExplainer,
    SimilarityExplainer,
    TextClassificationExplainer,
    TokenClassificationExplainer,
    WordAttribution,
    ZeroShotClassificationExplainer,
)

EITHER = ["paris", "jordan", "florence", "sydney"]  # a person, or a city after "from"
PEOPLE = ["anna", "bob", "carl", "dora", "emil", *EITHER]
CITIES = ["oslo", "rome", "lima", "cairo", "kyoto", *EITHER]
KINDS = {"food": ["soup", "cake", "bread"], "tools": ["hammer", "drill", "saw"],
         "books": ["novel", "atlas", "diary"]}  # fmt: skip
THINGS = sum(KINDS.values(), [])
VERBS = {"praise": ["loved", "enjoyed", "praised"], "complaint": ["hated", "disliked", "returned"]}
ENDINGS = {"praise": "and ordered it again", "complaint": "and asked for money back"}
LABELS = [*VERBS, *KINDS]  # of a text
ENTITIES = ["O", "B-PER", "B-LOC"]
INFERENCES = ["contradiction", "neutral", "entailment"]
CLAIM = "this example is about {}."
QUERY = "any {} about {}?"


@dataclass(frozen=True)
class Order:
    """Who, from where, ordered what, and was it liked?"""

    person: str
    city: str
    mood: str
    verb: str
    thing: str

    @property
    def text(self) -> str:
        return f"{self.person} from {self.city} {self.verb} the {self.thing}"

    @property
    def story(self) -> str:
        return f"{self.text} {ENDINGS[self.mood]}"

    def retold(self, draw: random.Random) -> str:
        """The same of the same thing in other words."""
        return f"the {self.thing} that {self.person} {draw.choice(VERBS[self.mood])}"

    @property
    def kind(self) -> str:
        return next(kind for kind, things in KINDS.items() if self.thing in things)

    @property
    def questions(self) -> dict[str, str]:
        """Questions and their answers."""
        return {
            f"who has the {self.kind}?": self.person,
            f"where is the {self.kind}?": self.city,
            f"what is the {self.kind}?": self.thing,
        }


def orders(draw: random.Random, n: int = 1) -> list[Order]:
    """Orders of different people, cities and kinds of thing."""
    people, kinds = draw.sample(PEOPLE, n), draw.sample(list(KINDS), n)
    cities = draw.sample([city for city in CITIES if city not in people], n)
    moods = draw.choices(list(VERBS), k=n)
    return [
        Order(person, city, mood, draw.choice(VERBS[mood]), draw.choice(KINDS[kind]))
        for person, city, mood, kind in zip(people, cities, moods, kinds, strict=True)
    ]


# %% One encoder, and a head for each task

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
words = " ".join([*PEOPLE, *CITIES, *THINGS, *LABELS, *ENDINGS.values(), *sum(VERBS.values(), [])])
words += " who where what has is the this example any from about that travel . ?"
vocabulary = {word: n for n, word in enumerate([*SPECIAL, *dict.fromkeys(words.split())])}
backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
backend.normalizer = normalizers.Lowercase()
backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
backend.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
)  # fmt: skip
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
)

WEIGHTS = Path(__file__).with_name("06_every_task.safetensors")  # those of seed 0
SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)


def config(labels: list[str] | None = None, **options: object) -> transformers.BertConfig:
    """Of a small BERT."""
    if labels:
        options |= {"id2label": dict(enumerate(labels)),
                    "label2id": {label: n for n, label in enumerate(labels)}}  # fmt: skip
    return transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=48, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.05, **options,
    )  # fmt: skip


of_task = nn.ModuleDict({
    "labels": transformers.BertForSequenceClassification(
        config(LABELS, problem_type="multi_label_classification")
    ),
    "relevance": transformers.BertForSequenceClassification(
        config(["relevance"], problem_type="regression")
    ),
    "inference": transformers.BertForSequenceClassification(config(INFERENCES)),
    "entities": transformers.BertForTokenClassification(config(ENTITIES)),
    "answers": transformers.BertForQuestionAnswering(config()),
    "gaps": transformers.BertForMaskedLM(config()),
})  # fmt: skip
encoder = transformers.BertModel(config())
for model in of_task.values():
    model.bert = encoder
of_task["gaps"].tie_weights()

# %% How it learns


def encoded(*texts: list[str]) -> transformers.BatchEncoding:
    """Ids of texts or pairs, some of them masked, so that the model knows missing words."""
    encoding = tokenizer(*texts, padding=True, return_tensors="pt")
    ids = encoding["input_ids"]
    missing = torch.rand(ids.shape) < 0.3 * torch.rand(len(ids), 1)
    encoding["input_ids"] = ids.masked_fill(missing & (ids >= len(SPECIAL)), 4)
    return encoding


def loss_of_labels(draw: random.Random, n: int) -> Tensor:
    """Which kinds of thing were ordered, and were they liked? Of one order or two."""
    told = [orders(draw, draw.choice([1, 2])) for _ in range(n)]
    right = [{label for order in text for label in (order.mood, order.kind)} for text in told]
    return of_task["labels"](
        **encoded([". ".join(order.text for order in text) for text in told]),
        labels=torch.tensor([[float(label in has) for label in LABELS] for has in right]),
    ).loss


def loss_of_relevance(draw: random.Random, n: int) -> Tensor:
    """Is a text what was looked for? 1 or 0."""
    told = [orders(draw)[0] for _ in range(n)]
    sought = [(order.mood, order.kind) for order in told]
    sought = [
        draw.choice([s, (draw.choice(list(VERBS)), draw.choice(list(KINDS)))]) for s in sought
    ]
    right = [float(s == (order.mood, order.kind)) for s, order in zip(sought, told, strict=True)]
    queries = [QUERY.format(*one) for one in sought]
    encoding = encoded(queries, [order.text for order in told])
    return of_task["relevance"](**encoding, labels=torch.tensor(right)).loss


def loss_of_inference(draw: random.Random, n: int) -> Tensor:
    """Does a text entail that it is about this? It says nothing of travel."""
    told = [orders(draw)[0] for _ in range(n)]
    claims = [draw.choice([order.mood, order.kind, *LABELS, "travel"]) for order in told]
    right = [
        1 if claim == "travel" else 2 if claim in (order.mood, order.kind) else 0
        for claim, order in zip(claims, told, strict=True)
    ]
    hypotheses = [CLAIM.format(claim) for claim in claims]
    encoding = encoded([order.text for order in told], hypotheses)
    return of_task["inference"](**encoding, labels=torch.tensor(right)).loss


def loss_of_entities(draw: random.Random, n: int) -> Tensor:
    """A name after "from" is a city, others are people."""
    told = [orders(draw, draw.choice([1, 2])) for _ in range(n)]
    texts = [". ".join(draw.choice([o.text, o.retold(draw)]) for o in text) for text in told]
    ids = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    is_person = torch.isin(ids, torch.tensor([vocabulary[name] for name in PEOPLE]))
    is_city = ids.roll(1, dims=1) == vocabulary["from"]
    labels = is_person.long().masked_fill(is_city, 2).masked_fill(ids < len(SPECIAL), -100)
    return of_task["entities"](**encoded(texts), labels=labels).loss


def loss_of_answers(draw: random.Random, n: int) -> Tensor:
    """Where in the context is the answer? It is one word."""
    told = [orders(draw, 2) for _ in range(n)]
    asked = [draw.choice(list(draw.choice(two).questions.items())) for two in told]
    contexts = [". ".join(order.text for order in two) for two in told]
    encoding = encoded([question for question, _ in asked], contexts)
    right = torch.tensor([
        encoding.char_to_token(number, context.index(answer), 1)
        for number, (context, (_, answer)) in enumerate(zip(contexts, asked, strict=True))
    ])  # fmt: skip
    return of_task["answers"](**encoding, start_positions=right, end_positions=right).loss


def loss_of_gaps(draw: random.Random, n: int) -> Tensor:
    """Which words are masked? The ending goes with the verb."""
    texts = [orders(draw)[0].story for _ in range(n)]
    encoding, whole = (
        encoded(texts),
        tokenizer(texts, padding=True, return_tensors="pt")["input_ids"],
    )
    labels = whole.masked_fill(encoding["input_ids"] != 4, -100)
    return of_task["gaps"](**encoding, labels=labels).loss


def loss_of_similarity(draw: random.Random, n: int) -> Tensor:
    """Which of the others says the same of the same person and thing?"""
    told = [orders(draw)[0] for _ in range(n)]
    sides = [order.text for order in told], [order.retold(draw) for order in told]
    embeddings = []
    for encoding in map(encoded, map(list, sides)):
        hidden, seen = encoder(**encoding).last_hidden_state, encoding["attention_mask"][..., None]
        embeddings.append(normalize((hidden * seen).sum(1) / seen.sum(1), dim=1))
    return cross_entropy(10 * embeddings[0] @ embeddings[1].T, torch.arange(n))


LOSSES = {
    loss_of_answers: 5,
    loss_of_relevance: 2,
    loss_of_inference: 2,
    loss_of_labels: 2,
    loss_of_gaps: 2,
    loss_of_similarity: 2,
    loss_of_entities: 1,
}  # how often, of 16


def train(steps: int = 6000) -> None:
    """One task in each step."""
    draw = random.Random(SEED + 1)
    optimizer = torch.optim.AdamW(of_task.parameters(), lr=2e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=steps, pct_start=0.1
    )
    running = {}
    for step in range(steps):
        (loss_of,) = draw.choices(list(LOSSES), weights=list(LOSSES.values()))
        loss = loss_of(draw, 32)
        loss.backward()
        running[loss_of.__name__[8:]] = round(loss.item(), 3)
        if step % 100 == 0:
            print(step, running, flush=True)
        nn.utils.clip_grad_norm_(of_task.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


if "SEED" not in os.environ and WEIGHTS.exists():
    load_model(of_task, WEIGHTS)
else:
    train()
    if not WEIGHTS.exists():
        save_model(of_task.half(), WEIGHTS)
        of_task.float()
of_task.eval()

# %% Labels: one, or every label above a probability, or all, which cost no more than one


def strongest(explained: WordAttribution, side: str | None = None) -> str:
    """The word that changes what is explained most, of both texts of a pair or of one."""
    words = [word for word in explained.words if side in (None, word.side)]
    return max(words, key=lambda word: abs(word.score)).word


labels = TextClassificationExplainer(of_task["labels"], tokenizer)
text = "paris from oslo hated the soup"
assert strongest(labels(text, "complaint")) == "hated"
assert strongest(labels(text, "food")) == "soup"

above = labels(text, ">0.5")
assert above.rows == ["complaint", "food"]
assert above["food"] == labels(text, "food")
every = labels("bob from rome loved the drill. dora from lima hated the cake", "all")
assert every.matrix.shape == (5, 13)  # labels, words
assert [strongest(every[kind]) for kind in ("food", "tools")] == ["cake", "drill"]
print(every)

# %% The scores are exact: a word's is what the logit loses without it

ids = tokenizer(text, return_tensors="pt")["input_ids"]
without = ids.clone()
without[0, 1 + text.split().index("soup")] = tokenizer.mask_token_id
with torch.no_grad():
    logits = [of_task["labels"](input_ids=rows).logits[0, LABELS.index("food")]
              for rows in (ids, without)]  # fmt: skip
assert abs(above["food"].words[-1].score - (logits[0] - logits[1])) < 1e-4

# %% A pair of texts, and a value: how well does the second one answer the query?

relevance = TextClassificationExplainer(of_task["relevance"], tokenizer)
pair = relevance((QUERY.format("complaint", "food"), text))
assert pair.value > 0.8
assert strongest(pair, "text") in ("complaint", "food")
assert strongest(pair, "text_pair") in ("hated", "soup")
assert all(word.score > 0 for word in pair.words if word.word in ("hated", "soup"))  # both raise it

# %% Labels given as words: which hypotheses does the text entail?

zero_shot = ZeroShotClassificationExplainer(of_task["inference"], tokenizer)
candidates = zero_shot(text, ["praise", "complaint"], hypothesis_template=CLAIM)
assert candidates.label == "complaint"
assert strongest(candidates["complaint"]) == "hated"
assert strongest(candidates["praise"]) == "hated"  # it speaks for the one and against the other

# %% Entities: "paris" is a person here, and "florence" a city, as the word before it says

entities = TokenClassificationExplainer(of_task["entities"], tokenizer)
found = entities("paris from florence loved the atlas")
assert found.rows == ["PER: paris", "LOC: florence"]
assert strongest(found["LOC: florence"]) in ("from", "florence")
given = entities("paris from florence loved the atlas", [(0, 5, "LOC")])  # why is it not a city?
assert given[0].value < found[0].value

# %% Answers: the start and the end of the answer, and their sum

answers = QuestionAnsweringExplainer(of_task["answers"], tokenizer)
context = "paris from oslo hated the soup. anna from lima loved the drill"
who = answers(("who has the tools?", context))
assert who.label == "anna"
assert who.rows == ["start", "end", "start + end"]
assert strongest(who["start + end"], "text") in ("who", "tools")
where = answers(("where is the food?", context))
assert where.label == "oslo"
assert strongest(where["start"], "text") in ("where", "food")

# %% Gaps: the likeliest tokens at the mask, which itself stays

# "asked", "money" and "back" say the same, so that none is missed much. Two-sided contexts also see
# what each says alone.
gaps = FillMaskExplainer(of_task["gaps"], tokenizer)
story = "anna from oslo [MASK] the soup and asked for money back"
back = gaps(story, top_k=3, contexts="two_sided")
assert set(back.rows) == set(VERBS["complaint"])
assert strongest(back[0]) in ENDINGS["complaint"].split()
given = gaps(story, ["hated", "loved"])
assert given["hated"].value > given["loved"].value

# %% Similar texts: the words of each, while the other stays

similar = SimilarityExplainer(encoder, tokenizer)
alike = similar(("anna from oslo loved the soup", "the soup that anna enjoyed"))
assert alike.value > 0.7
assert strongest(alike, "text") in ("anna", "soup")
assert strongest(alike, "text_pair") in ("anna", "soup")
ranking = similar(("the soup that anna enjoyed", [text, "anna from oslo loved the soup"]))
assert ranking[1].value > ranking[0].value

# %% All results can be shown, saved, and read as a table

assert "<html" in every.to_html()
assert every.to_csv().count("\n") > 5
assert every.to_dict()["targets"][0]["name"] == "praise"

# %% Other methods: the same call. Captum's integrated gradients, here of a label

assert strongest(labels(text, "complaint", method="ig")) == "hated"
assert strongest(labels(text, "food", method="ig")) == "soup"
