"""The search app: what it answers, and that a bad request gets a clear error and no traceback."""

import io
import json
import threading

import pandas as pd
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from metaembed_lite import MetaIndex, load, load_task, maxsim
from metaembed_lite.indexing import build_index
from metaembed_lite.search_app.app import create_app
from metaembed_lite.search_app.guard import BODY_LIMIT, IMAGE_LIMIT
from metaembed_lite.search_app.searcher import Searcher

JSON = {"content-type": "application/json"}
HOSTILE = "</script><img src=x onerror=window.injected=1>"
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu")


@pytest.fixture(scope="module")
def task():
    return load_task("stickers", n_queries=20, n_train=0)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp("app") / "stickers"
    index, _ = build_index("tiny", "stickers", path, ["n_queries=20"], progress=False)
    index.add(["../a b?#%/ü.png", "text"], torch.nn.functional.normalize(torch.ones(2, 16, 128)),
              {"text": [HOSTILE, "a violin"], "year": [2001.5, None]})  # fmt: skip
    return Searcher(index, tiny)


@pytest.fixture(scope="module")
def client(searcher):
    return TestClient(create_app(searcher), ADDRESS, raise_server_exceptions=False)


def png(*size):
    file = io.BytesIO()
    Image.new("RGB", size or (64, 64), "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("budget", ["1x1", [4, 8], "(8, 16)", None])
def test_a_search_answers_with_the_ranking_of_maxsim_and_its_cost(client, task, tiny, budget):
    text = task.queries[0]
    fields = {"text": text, "k": 5, **({"budget": budget} if budget else {})}
    answer = client.post("/search", json=fields).json()
    r_q, r_c = answer["budget"]
    candidates = torch.stack(tiny.encode_document(task.candidates))
    scores = maxsim(tiny.encode_query([text]), candidates, (r_q, r_c))[0]
    expected = scores.sort(descending=True).values[:5]
    assert [row["score"] for row in answer["results"]] == pytest.approx(expected.tolist(), abs=2e-3)
    assert answer["stats"]["bytes_read"] == 42 * r_c * 128 * 2
    assert answer["stats"]["candidates"] == 42
    assert answer["stats"]["search_ms"] > 0
    assert all(row["has_thumbnail"] for row in answer["results"])


def test_a_query_is_encoded_once(client, searcher, monkeypatch):
    first = client.post("/search", json={"text": "ghost, violin"}).json()
    monkeypatch.setattr(searcher.model, "encode_query", None)
    for fields in ({"text": " ghost, violin "}, {"query": first["query"]}):
        again = client.post("/search", json={**fields, "budget": "8x16"}).json()
        assert again["results"] == first["results"]
        assert again["stats"]["encode_ms"] == first["stats"]["encode_ms"]


def test_an_image_searches_alone_or_with_a_text(client, tiny, searcher):
    for fields in ({"k": "3", "budget": "2x4"}, {"k": "3", "budget": "2x4", "text": "violin"}):
        answer = client.post("/search", data=fields, files={"image": ("a.png", png())})
        assert answer.status_code == 200, answer.text
        picture = Image.open(io.BytesIO(png()))
        item = {"text": "violin", "image": picture} if "text" in fields else picture
        expected = searcher.index.search(tiny.encode_query(item), 3, "2x4")
        assert [row["id"] for row in answer.json()["results"]] == list(expected.id)


def test_a_filter_a_cascade_and_metadata(client):
    fields = {"text": "violin", "where": "year > 2000", "prefetch": [["1x1", 20]]}
    (row,) = client.post("/search", json=fields).json()["results"]
    assert row["metadata"] == {"text": HOSTILE, "year": 2001.5}
    assert not row["has_thumbnail"]
    assert client.post("/search", json={"text": "a", "where": "id = 'x'"}).json()["results"] == []
    (row,) = client.post("/search", json={"text": "a", "where": "id = 'text'"}).json()["results"]
    assert row["metadata"]["year"] is None


def test_thumbnails_and_matches_are_found_by_any_id(client, searcher, tiny, task):
    answer = client.post("/search", json={"text": task.queries[0], "k": 1, "budget": "4x8"}).json()
    (row,) = answer["results"]
    thumbnail = client.get(f"/thumbnail/{row['id']}")
    assert thumbnail.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (128, 128)
    match = client.get(f"/match/{row['id']}", params={"query": answer["query"], "budget": "4x8"})
    match = match.json()
    query = tiny.encode_query(task.queries[0])
    similarities = query @ searcher.index.vectors([row["id"]])[0].T
    torch.testing.assert_close(torch.tensor(match["similarities"]), similarities, atol=1e-5, rtol=0)
    best = similarities[:4, :8].max(dim=1)
    assert [pick["candidate_vector"] for pick in match["picks"]] == best.indices.tolist()
    assert match["score"] == pytest.approx(row["score"], abs=1e-4)
    maps = client.get(f"/attention/{row['id']}").json()
    assert maps["grids"] == [[0, 8, 8]]
    odd = "..%2Fa%20b%3F%23%25%2F%C3%BC.png"
    assert client.get(f"/match/{odd}", params={"query": answer["query"]}).json()["id"] == (
        "../a b?#%/ü.png"
    )
    assert client.get(f"/attention/{odd}").json() is None
    assert client.get(f"/thumbnail/{odd}").json() == {"error": "id '../a b?#%/ü.png' has no image"}


def test_the_page_escapes_what_the_index_holds(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert HOSTILE not in page.text
    script = client.get("/search.js")
    assert script.headers["content-type"].startswith("text/javascript")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the query is empty"),
        ({"text": "  "}, "the query is empty"),
        ({"text": 7}, "text=7"),
        ({"text": "a\ud800"}, "half of a surrogate pair"),
        ({"text": "a", "k": 0}, "k=0: it counts results"),
        ({"text": "a", "k": 201}, "k=201: use at most 200"),
        ({"text": "a", "k": "ten"}, "k='ten'"),
        ({"text": "a", "k": 1.5}, "k=1.5"),
        ({"text": "a", "k": None}, "k=None"),
        ({"text": "a", "budget": "9x16"}, "budget (9, 16): there are 8 query vectors"),
        ({"text": "a", "budget": "1x17"}, "budget (1, 17): there are 16 candidate vectors"),
        ({"text": "a", "budget": [0, 1]}, "r_q=0"),
        ({"text": "a", "budget": "many"}, "budget 'many'"),
        ({"text": "a", "budget": 5}, "budget 5"),
        ({"text": "a", "budget": {"r_q": 1}}, "budget {'r_q': 1}"),
        ({"text": "a", "budget": "9" * 5000 + "x1"}, "budget '999"),
        ({"text": "a", "where": "year >"}, "where='year >'"),
        ({"text": "a", "where": "color = 'red'"}, "where=\"color = 'red'\""),
        ({"text": "a", "where": ["x"]}, "where=['x']"),
        ({"text": "a", "prefetch": "1x1"}, "prefetch: ['1x1'] is no stage"),
        ({"text": "a", "prefetch": 3}, "prefetch: 3 is no stage"),
        ({"text": "a", "prefetch": [["1x1", 0]]}, "prefetch: candidates=0"),
        ({"text": "a", "prefetch": [["1x1", 5]]}, "let each stage keep fewer"),
        ({"text": "a", "image": "a.png"}, "multipart/form-data"),
        ({"text": "a", "colour": "red"}, "unknown field 'colour'"),
        (["a"], "the body is list"),
    ],
)
def test_a_bad_field_is_named(client, fields, message):
    answer = client.post("/search", content=json.dumps(fields), headers=JSON)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 60000, b'{"k": 1e999}'])
def test_a_body_that_is_not_json_is_refused(client, body):
    answer = client.post("/search", content=body, headers=JSON)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "is not an image"),
        (b"a text", "is not an image that PIL can read"),
        (png()[:60], "cannot be read as an image"),
    ],
)
def test_a_file_that_is_no_image_is_refused(client, image, message):
    answer = client.post("/search", data={"k": 3}, files={"image": ("a.png", image)})
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]


def test_large_bodies_are_refused_while_they_arrive(client):
    image = bytes(IMAGE_LIMIT + 1)
    answer = client.post("/search", files={"image": ("a.png", image)})
    assert answer.status_code == 400
    assert f"image of {IMAGE_LIMIT + 1:,} bytes: the limit is" in answer.json()["error"]
    answer = client.post("/search", content=bytes(BODY_LIMIT + 1), headers=JSON)
    assert answer.status_code == 413
    chunks = (bytes(2**20) for _ in range(100))  # without a length
    answer = client.post("/search", content=chunks, headers=JSON)
    assert answer.status_code == 413
    assert "larger than the limit" in answer.json()["error"]


def test_a_form_has_each_field_once(client):
    part = ("a.png", png())
    answer = client.post("/search", files=[("image", part), ("image", part)])
    assert answer.status_code == 400
    answer = client.post("/search", data={"k": ["1", "2"]}, files={"image": part})
    assert answer.json() == {"error": "k is given twice"}
    answer = client.post("/search", files={"text": ("a.txt", b"violin")})
    assert answer.status_code == 400
    broken = {"content-type": "multipart/form-data"}
    assert client.post("/search", content=b"x", headers=broken).status_code == 400


def test_unknown_things_are_not_found(client):
    token = client.post("/search", json={"text": "violin", "k": 1}).json()["query"]
    for path, status, message in (
        ("/thumbnail/nothing", 404, "id 'nothing' is not in index"),
        ("/attention/nothing", 404, "id 'nothing' is not in index"),
        (f"/match/nothing?query={token}", 404, "id 'nothing' is not in index"),
        ("/match/text?query=abc", 404, "query 'abc' is not in memory"),
        ("/match/text", 400, "query is missing"),
        (f"/match/text?query={token}&budget=9x1", 400, "there are 8 query vectors"),
        ("/match/%00?query=" + token, 404, "printable"),
        ("/nowhere", 404, "/nowhere: not found"),
        ("/search", 405, "GET /search: method not allowed"),
    ):
        answer = client.get(path)
        assert answer.status_code == status, (path, answer.text)
        assert message in answer.json()["error"]
    answer = client.post("/search", json={"query": "abc"})
    assert (answer.status_code, answer.json()["error"][:11]) == (404, "query 'abc'")
    answer = client.post("/search", data={"text": "violin"})
    assert answer.status_code == 415
    assert "application/x-www-form-urlencoded" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"origin": ADDRESS, "sec-fetch-site": "same-origin"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8000"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),  # another program's page on this machine
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_other_sites_cannot_search(client, headers, status):
    answer = client.post("/search", json={"text": "violin", "k": 1}, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert set(answer.json()) == {"error"}


def test_a_link_from_elsewhere_opens_the_page_and_reads_nothing(client):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert client.get("/thumbnail/text", headers=image).status_code == 403
    assert client.get("/").headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), ValueError("shapes do not match")])
def test_a_bug_is_answered_without_its_traceback(error, client, searcher, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(searcher.index, "search", fail)
    answer = client.post("/search", json={"text": "violin"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "this is a bug: the terminal shows where"}


def test_an_index_that_disappears_is_explained(tmp_path, tiny):
    index = MetaIndex.create(tmp_path / "index", 128, [(1, 1), (8, 16)], model=tiny)
    client = TestClient(create_app(Searcher(index, tiny)), ADDRESS)
    assert client.post("/search", json={"text": "violin"}).json()["results"] == []  # it is empty
    assert client.get("/").status_code == 200
    for file in sorted((tmp_path / "index").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    answer = client.post("/search", json={"text": "violin"})
    assert answer.status_code == 503
    assert str(tmp_path / "index") in answer.json()["error"]


def test_searches_at_the_same_time_get_their_own_answers(client, task):
    queries = task.queries[:8]
    expected = [client.post("/search", json={"text": text}).json()["results"] for text in queries]
    answers = [None] * len(queries)

    def search(i):
        answers[i] = client.post("/search", json={"text": queries[i]}).json()["results"]

    threads = [threading.Thread(target=search, args=[i]) for i in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected


def test_a_model_without_images_refuses_one(searcher, client, monkeypatch):
    monkeypatch.setattr(type(searcher.model[0]), "reads_images", False)
    answer = client.post("/search", files={"image": ("a.png", png(9, 9))})
    assert answer.status_code == 400
    assert "cannot read images" in answer.json()["error"]


def test_columns_of_bytes_are_not_answered(tmp_path, tiny):
    index = MetaIndex.create(tmp_path / "index", 128, [(8, 16)], model=tiny)
    index.add_from(tiny, ["violin"], ["a"], pd.DataFrame({"raw": [b"\xff"], "n": [1]}))
    client = TestClient(create_app(Searcher(index, tiny)), ADDRESS)
    (row,) = client.post("/search", json={"text": "violin"}).json()["results"]
    assert row["metadata"] == {"n": 1}
