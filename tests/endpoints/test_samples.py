"""Samples are code that runs as it stands: whatever the address and id, in each language."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.models import FoundationModel
from endpoints.samples import Sample, samples

BASE = "https://ark.example.com/api/v3"
DOMAINS = list(FoundationModel.Domain)
ODD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


def sample(key: str, **values: Any) -> Sample:
    values = {"model": "ep-20260421180049-ngwkm", "domain": "chat", "base_url": BASE, **values}
    return next(each for each in samples(**values) if each.key == key)


def constants(code: str) -> list[Any]:
    return [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("key", ["curl", "openai", "ark", "javascript"])
def test_every_sample_names_this_endpoint_and_address_and_no_key(key: str, domain: str) -> None:
    code = sample(key, domain=domain).code
    assert "ep-20260421180049-ngwkm" in code
    assert BASE in code
    assert "ARK_API_KEY" in code
    assert code.endswith("\n")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("key", ["openai", "ark"])
def test_the_python_samples_compile(key: str, domain: str) -> None:
    compile(sample(key, domain=domain).code, f"<{key} {domain}>", "exec")


@given(model=ODD, host=ODD)
def test_python_reads_back_exactly_the_model_and_address_whatever_they_are(model: str, host: str) -> None:
    for key in ("openai", "ark"):
        found = constants(sample(key, model=model, base_url=f"https://{host}").code)
        assert model in found
        assert f"https://{host}".rstrip("/") in found


@given(model=ODD, host=ODD)
def test_the_shell_hands_curl_exactly_the_address_and_body(model: str, host: str) -> None:
    code = sample("curl", model=model, base_url=f"https://{host}").code
    shell = 'curl() { for argument in "$@"; do printf "%s\\0" "$argument"; done; }\nARK_API_KEY=k\n' + code
    output = subprocess.run(["sh", "-c", shell], capture_output=True, check=True, timeout=10).stdout
    address, _h, authorization, _h2, _type, _d, body = output.decode().split("\0")[:-1]
    assert address == f"https://{host}".rstrip("/") + "/chat/completions"
    assert authorization == "Authorization: Bearer k"
    assert json.loads(body)["model"] == model


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_javascript_samples_parse(domain: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    code = sample("javascript", domain=domain, model='"`${x}\\').code
    checked = subprocess.run([node, "--check", "--input-type=module", "-"], input=code, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_embeddings_are_asked_of_embedding_models_and_pictures_of_those_that_see() -> None:
    assert "client.embeddings.create" in sample("openai", domain="embedding").code
    assert "/embeddings" in sample("curl", domain="embedding").code
    assert "data:image/png;base64," in sample("openai", domain="vision").code
    assert "reasoning_content" in sample("ark", domain="thinking").code
