import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from zopde import InputError, SolverError
from zopde.blackbox import Store
from zopde.studies.classifiers import HttpClassifier
from zopde.studies.defend.blackbox import BlackBox, BudgetSpentError, Ledger

IMAGES = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 1, 2, 2).contiguous()


def two_shares(images):
    level = images.mean(dim=(1, 2, 3))
    return torch.stack([1 - level, level], dim=1)


def two_scores(images):
    return 2 * two_shares(images)


def labels_only(images):
    return two_scores(images).argmax(dim=1)


def test_the_ledger_counts_images_exact():
    ledger = Ledger(price=0.5, budget=20)
    box = BlackBox(two_scores, 2, ledger, at_once=4)
    box.scores(IMAGES)
    assert torch.equal(box.labels(IMAGES), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert (ledger.queries, ledger.cost) == (12, 6.0)
    with pytest.raises(BudgetSpentError, match="the budget of 20 queries leaves 0, 1"):
        box.scores(IMAGES.repeat(2, 1, 1, 1)[:9])
    assert ledger.queries == 20  # what was asked before the budget ended is paid for


def test_probabilities_become_log_scores_exact():
    box = BlackBox(two_shares, 2, Ledger(), answers="probabilities")
    assert box.scores(IMAGES).softmax(dim=1) == pytest.approx(two_shares(IMAGES), abs=1e-6)


def test_answers_of_another_kind_than_announced_are_refused():
    with pytest.raises(InputError, match=r"sum is 1, expected logits.*answers=probabilities"):
        BlackBox(two_shares, 2, Ledger()).scores(IMAGES)
    with pytest.raises(InputError, match=r"from 0 to 2.*expected probabilities.*answers=logits"):
        BlackBox(two_scores, 2, Ledger(), answers="probabilities").scores(IMAGES)


def test_labels_become_shares_of_votes_exact():
    """P(level + tau e > 1/2) for the mean of four pixels, in log-odds of the votes."""
    ledger = Ledger()
    box = BlackBox(labels_only, 2, ledger, "labels", votes=4000, vote_sigma=0.3)
    shares = box.scores(IMAGES).exp()
    assert ledger.queries == 6 * 4000
    level = IMAGES.mean(dim=(1, 2, 3)).double()
    expected = torch.special.ndtr((level - 0.5) / (0.3 / 2))
    assert float((shares[:, 1].double() - expected).abs().max()) < 0.03
    assert torch.equal(box.labels(IMAGES), labels_only(IMAGES))
    assert shares.sum(dim=1) == pytest.approx(torch.ones(6))


def test_labels_without_votes_raises():
    with pytest.raises(InputError, match="a label alone has no slope"):
        BlackBox(labels_only, 2, Ledger(), "labels")


def test_what_is_in_the_store_is_not_asked_again(tmp_path):
    store, ledger = Store(tmp_path / "answers.db"), Ledger()
    box = BlackBox(two_scores, 2, ledger, store=store, identity="a")
    first = box.scores(IMAGES)
    assert torch.equal(box.scores(IMAGES), first)
    assert ledger.queries == 6
    again = Ledger()
    replayed = BlackBox(lambda x: 1 / 0, 2, again, store=Store(tmp_path / "answers.db"))
    with pytest.raises(SolverError, match="ZeroDivisionError"):
        replayed.scores(IMAGES)  # another classifier
    same = BlackBox(lambda x: 1 / 0, 2, Ledger(), store=store, identity="a")
    assert torch.equal(same.scores(IMAGES), first)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (lambda x: x.mean(dim=(1, 2, 3)), "got an answer of shape"),
        (lambda x: two_scores(x) * torch.nan, "not finite"),
        (lambda x: torch.ones(len(x), 3), r"expected logits of shape \(6, 2\)"),
    ],
)
def test_answers_that_are_none_raises(classifier, message):
    with pytest.raises((InputError, SolverError), match=message):
        BlackBox(classifier, 2, Ledger()).scores(IMAGES)


@pytest.fixture
def server():
    state = {"requests": 0, "broken": 1, "content": None}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            state["requests"] += 1
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if state["broken"]:
                state["broken"] -= 1
                self.close_connection = True
                return
            scores = two_scores(torch.tensor(body["images"])).tolist()
            text = json.dumps(state["content"] or {"scores": scores}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/classify", state
    served.shutdown()
    thread.join()
    served.server_close()


def test_a_service_is_asked_again_after_a_broken_connection(server):
    url, state = server
    box = BlackBox(HttpClassifier(url, timeout=5, retries=2, at_once=4), 2, Ledger())
    assert box.scores(IMAGES) == pytest.approx(two_scores(IMAGES), abs=1e-6)
    assert state["requests"] == 3
    state["content"] = {"error": "out of credit"}
    with pytest.raises(SolverError, match="out of credit"):
        box.scores(IMAGES)


def test_no_address_raises():
    with pytest.raises(InputError, match="http://host:port/path"):
        HttpClassifier("ftp://somewhere")
