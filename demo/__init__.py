"""An honest OpenAI-compatible model server, for trying ArkConsole and for testing it.

It stands alone: it imports nothing of the product and nothing of the product imports it. What it claims is what
happened: usage is counted from the very tokens it sent, and every call is written down (``demo.ledger``) so that
another ledger can be held against it.

Run it with ``python -m demo --host 127.0.0.1 --port 8090``.
"""
