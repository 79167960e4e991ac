"""Read labelled texts, write tables: shared by `faithfulness` and `corpus`."""
