"""Many texts: explained on one machine or a cluster, kept in Parquet, reported on."""

from captum_sig.corpus.explainer import CorpusExplainer

__all__ = ["CorpusExplainer"]
