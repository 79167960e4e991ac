"""A small sentiment classifier that ships with the package: nothing needs a download.

The folder holds transformers' own files; `README.md` is the model card.

Example:
    >>> from transformers import AutoTokenizer
    >>> tokenizer = AutoTokenizer.from_pretrained(PATH)
    >>> tokenizer.tokenize("It isn't bad.") == tokenizer.tokenize("it is n't bad .")
    True
"""

from pathlib import Path

PATH = Path(__file__).parent
"""The folder to give to `from_pretrained`."""
