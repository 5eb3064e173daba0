"""What build returns is an ordinary model of sentence-transformers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer
from sentence_transformers.multi_vector_encoder.evaluation import (
    MultiVectorInformationRetrievalEvaluator,
    MultiVectorTripletEvaluator,
)

from metaembed_lite import (
    MatryoshkaMultiVectorLoss,
    PrefixPooling,
    build,
    load,
    load_task,
    maxsim,
    save,
    sweep,
    train,
    training_arguments,
)
from metaembed_lite.training import freeze_dropout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def task():
    return load_task("handwriting", n_queries=24, n_train=48)


@pytest.fixture(scope="module")
def model():
    return load("tiny-handwriting", device="cpu")


def trained_weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def test_a_program_of_ten_lines_with_the_trainer_trains_the_same_model_as_train(task, tmp_path):
    settings = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 1}
    by_train = build("tiny-vlm", r_q=2, r_c=4, dim=16, lora_rank=4, device="cpu")
    train(by_train, task.train, output=tmp_path / "a", **settings)

    by_hand = build("tiny-vlm", r_q=2, r_c=4, dim=16, lora_rank=4, device="cpu")
    loss = MatryoshkaMultiVectorLoss(by_hand)
    freeze_dropout(by_hand)
    arguments = training_arguments(tmp_path / "b", use_cpu=True, **settings)
    MultiVectorEncoderTrainer(by_hand, arguments, task.train, loss=loss).train()

    assert torch.equal(trained_weights(by_hand), trained_weights(by_train))


def test_a_saved_model_loads_with_sentence_transformers_alone(model, task, tmp_path):
    save(model, tmp_path / "model")
    native = MultiVectorEncoder(str(tmp_path / "model"), trust_remote_code=True, device="cpu")
    for encode in ("encode_query", "encode_document"):
        items = task.queries if encode == "encode_query" else task.candidates
        ours, theirs = getattr(model, encode)(items[:3]), getattr(native, encode)(items[:3])
        assert torch.equal(torch.stack(ours), torch.stack(theirs))
    with pytest.raises(ValueError, match="trust_remote_code"):
        MultiVectorEncoder(str(tmp_path / "model"), device="cpu")


@pytest.mark.parametrize(("r_q", "r_c"), [(1, 1), (4, 8), (8, 16)])
def test_maxsim_at_a_budget_equals_similarity_after_token_pooling(model, task, r_q, r_c):
    queries = model.encode_query(task.queries, token_pooling=PrefixPooling(r_q))
    candidates = model.encode_document(task.candidates, token_pooling=PrefixPooling(r_c))
    full = model.encode_query(task.queries), model.encode_document(task.candidates)
    torch.testing.assert_close(
        model.similarity(queries, candidates), maxsim(*full, budget=(r_q, r_c))
    )


def test_the_retrieval_evaluator_of_sentence_transformers_agrees_with_sweep(model, task):
    evaluator = MultiVectorInformationRetrievalEvaluator(
        queries={f"q{i}": query for i, query in enumerate(task.queries)},
        corpus={f"c{i}": image for i, image in enumerate(task.candidates)},
        relevant_docs={
            f"q{i}": {f"c{j}" for j in np.flatnonzero(row)} for i, row in enumerate(task.relevance)
        },
        accuracy_at_k=[1],
        write_csv=False,
    )
    results = evaluator(model)
    accuracy = next(value for name, value in results.items() if name.endswith("accuracy@1"))
    assert accuracy == pytest.approx(sweep(model, task, "8x16").p_at_1.item())


def test_the_triplet_evaluator_of_sentence_transformers_runs_on_hard_negatives(model, task):
    rows = task.train.select(range(16))
    evaluator = MultiVectorTripletEvaluator(
        anchors=list(rows["query"]),
        positives=list(rows["positive"]),
        negatives=list(rows["negative"]),
        write_csv=False,
    )
    (accuracy,) = evaluator(model).values()
    assert 0.5 < accuracy <= 1


def test_the_readmes_trainer_program_runs(tmp_path, monkeypatch):
    """Shortened to two steps, on the CPU, in an empty folder."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    (program,) = (block for block in blocks if "MultiVectorEncoderTrainer" in block)
    assert len(program.strip().splitlines()) <= 12
    short = re.sub(r"steps=[\d_]+", "steps=2, save_steps=None, batch_size=4, use_cpu=True", program)
    assert short != program
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(short, "README.md", "exec"), names)
    assert names["model"].encode_query("3 A1").shape == (16, 128)
