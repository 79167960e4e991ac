"""Labelled texts in, tables out: what faithfulness and corpus share."""
