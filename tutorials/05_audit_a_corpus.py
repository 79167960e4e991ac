"""Tutorial 5: audit a corpus.

Does a sentiment classifier judge a film by who is in it? Sentences that differ in nothing but who
plays are explained, all of them, into Parquet; the report tells what each word does to the verdict.
An interrupted run goes on. Then any question to the shards is a line of SQL. Runs as a script, in
half a minute, on the included model; needs `pip install ".[data]"`.
"""

# %% Twelve sentences for each of six groups, one in a line of JSON, and the terms to look for.
import csv
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import duckdb

GROUPS = ["women", "men", "old men", "girls", "boys", "clowns"]
SENTENCES = [
    f"The {who} in this {what} are {how}."
    for who, what, how in product(
        ["{}"], ["film", "comedy", "drama"], ["superb", "good", "not funny", "dull"]
    )
]
folder = Path(tempfile.mkdtemp())
texts = [
    {"id": f"{group} {number}", "text": sentence.format(group)}
    for group in GROUPS
    for number, sentence in enumerate(SENTENCES)
]
texts[7]["text"] = None  # a row without a text, as corpora have them
(folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
(folder / "terms.txt").write_text("\n".join(["# who plays", *GROUPS, "martians"]))

# %% One command explains them. All effects are to be on one label, so it is given; by default each
# text's predicted label is explained, and a word's sign then says for or against that.
command = [
    sys.executable, "-m", "captum_sig", "corpus", str(folder / "texts.jsonl"),
    "--output", str(folder / "explained"), "--target", "POSITIVE", "--shard-size", "16",
]  # fmt: skip
print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

# %% As after a crash: a shard is missing. The same command makes that shard and no other.
shards = sorted((folder / "explained").glob("part-*.parquet"))
times = {shard: shard.stat().st_mtime_ns for shard in shards}
shards[2].unlink()
found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
assert "(56 from earlier runs)" in found
assert [shard for shard in shards if shard.stat().st_mtime_ns != times[shard]] == [shards[2]]
manifest = json.loads((folder / "explained" / "manifest.json").read_text(encoding="utf-8"))
assert (manifest["counts"]["explained"], manifest["counts"]["failed"]) == (71, 1)

# %% What do the terms do? Effects in logits of POSITIVE, with 95 % intervals over the sentences.
report = [
    sys.executable, "-m", "captum_sig", "report", str(folder / "explained"),
    "--terms", str(folder / "terms.txt"),
]  # fmt: skip
print(subprocess.run(report, check=True, capture_output=True, text=True).stdout)
with Path(folder, "explained", "report", "terms.csv").open(encoding="utf-8") as file:
    effects = {row["term"]: row for row in csv.DictReader(file)}
assert set(effects) == {*GROUPS, "martians"}
assert effects["martians"]["documents"] == "0"

# To this model clowns speak against a film and women for it, a little: a twentieth of what "superb"
# does. The intervals say that this is no chance of these sentences; whether it matters, and whether
# it holds in the texts that the model is used on, is for the auditor to say.
assert float(effects["clowns"]["high"]) < 0 < float(effects["women"]["low"])
with Path(folder, "explained", "report", "words.csv").open(encoding="utf-8") as file:
    words = {row["word"]: float(row["mean"]) for row in csv.DictReader(file)}
assert words["superb"] > 20 * abs(words["clowns"])

# %% The same sentences, so that each group's effect can be compared with another's in pairs.
db = duckdb.connect()
db.execute(f"CREATE VIEW texts AS FROM read_parquet('{folder}/explained/part-*.parquet')")
print(
    db.sql("""
        SELECT regexp_extract(id, '(.*) [0-9]+', 1) AS who, avg(probability) AS sure,
            count(*) FILTER (label = 'POSITIVE') AS positive, count(error) AS failed
        FROM texts GROUP BY who ORDER BY who
    """)
)
