"""`python -m captum_sig` is the command `captum-sig`."""

from captum_sig.cli.main import app

app(prog_name="captum-sig")
