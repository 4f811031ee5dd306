"""Videos and sentences: what is made of digits, and what is said of data that will not do."""

import pytest
import torch

from zopde import InputError
from zopde.data import Look, Videos, Vocabulary, digit_videos, load_videos

SENTENCES = ("a one", "a two leaves")
SPANS = ((0.0, 0.5), (0.25, 1.0))


def items(frames=None, sentences=SENTENCES, spans=SPANS):
    frames = torch.zeros(2, 3, 1, 4, 4) if frames is None else frames
    return list(zip(frames, sentences, spans, strict=True))


def test_triples_become_videos_exact():
    videos = Videos.of(items(torch.full((2, 3, 1, 4, 4), 7, dtype=torch.uint8).numpy()))
    assert videos.frames.shape == (2, 3, 1, 4, 4)
    assert videos.frames.unique().tolist() == [7.0]
    assert videos.sentences == SENTENCES
    assert videos.spans.tolist() == [list(span) for span in SPANS]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "videos: got "),
        ([1, 2], "videos: got "),
        (items(torch.zeros(2, 1, 4, 4)), r"frames: got shape \(2, 1, 4, 4\), expected \(video, "),
        (items([torch.zeros(3, 1, 4, 4), torch.zeros(2, 1, 4, 4)]), "videos: got .* one shape"),
        (items(torch.full((2, 3, 1, 4, 4), torch.nan)), "frames: got values not finite"),
        (items(sentences=("a one", " ")), "sentence of video 1: got ' '"),
        (items(sentences=("a one", 2)), "sentence of video 1: got 2"),
        (items(spans=((0.0, 0.5), (3.0, 7.5))), r"span of video 1: got \(3.0, 7.5\).*divide sec"),
        (items(spans=((0.5, 0.5), (0.0, 1.0))), "span of video 0: got "),
        (items(spans=((0.0, 0.5), (torch.nan, 1.0))), "span of video 1: got "),
        (items(spans=((0.0, 0.5, 1.0), (0.0, 0.5, 1.0))), r"spans: got shape \(2, 3\)"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(wrong, said):
    with pytest.raises(InputError, match=f"^{said}") as caught:
        Videos.of(wrong)
    assert "\n" not in str(caught.value)


def write(folder, body):
    (folder / "mine.py").write_text(f"import numpy as np\n\ndef both():\n    {body}\n")
    return f"{folder / 'mine.py'}:both"


GOOD = "[(np.zeros((3, 1, 4, 4)), 'a one', (0, 1))]"


def test_a_function_of_the_users_gives_the_data(tmp_path):
    data = load_videos(write(tmp_path, f"return {GOOD}, 2 * {GOOD}"))
    assert (len(data.train), len(data.test)) == (1, 2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no disk')", "videos '.*': got ValueError: no disk"),
        ("return None", r"videos '.*': got TypeError.*expected \(training, test\) items"),
        (f"return {GOOD}, []", "test videos of '.*': videos: got "),
        (f"return {GOOD}, [(np.zeros((3, 1, 5, 5)), 'a', (0, 1))]", "test videos: got shape"),
        ("return [(np.zeros((3, 1, 4, 4)), 'a', (0, 9))], []", "training videos of .*span of"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(tmp_path, body, said):
    with pytest.raises(InputError, match=f"^{said}"):
        load_videos(write(tmp_path, body))


def test_a_function_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^videos file: got .*, expected an existing"):
        load_videos("nowhere.py:both")


def test_what_a_sentence_tells_is_in_the_frames_of_its_span():
    """Without noise, a frame is dark but where a digit is; each event is lower than the last."""
    data = digit_videos(Look(noise=0.0), 30, 10, seed=3)
    videos, frames = data.train, data.train.frames.shape[1]
    for shown, sentence, (start, end) in zip(
        videos.frames, videos.sentences, videos.spans, strict=True
    ):
        first, after = round(float(start) * frames), round(float(end) * frames)
        lit = shown[:, 0].amax(dim=(1, 2)) > 0
        assert lit[first:after].all()
        x = (shown[:, 0].sum(dim=1) * torch.arange(shown.shape[-1])).sum(dim=1)
        x = x / shown[:, 0].sum(dim=(1, 2))
        moved = float(x[after - 1] - x[first])
        way = {"left": moved < -1, "right": moved > 1, "still": abs(moved) < 1}
        assert way[sentence.split()[-1]], (sentence, moved)
        rows = shown[first:after, 0].amax(dim=2) > 0
        tops = rows.double().argmax(dim=1)
        assert (tops.diff() >= 0).all()


def test_digit_videos_are_a_function_of_the_seed_and_have_two_parts():
    looks = Look(noise=0.1, background=0.5)
    one, again, other = (digit_videos(looks, 8, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.frames, again.train.frames)
    assert not torch.equal(one.train.frames, other.train.frames)
    assert not torch.equal(one.train.frames[:4], one.test.frames)
    assert (len(one.train), len(one.test)) == (8, 4)


def test_words_are_numbered_and_unknown_ones_are_one_number_exact():
    vocabulary = Vocabulary.of(SENTENCES)
    assert vocabulary.words == ("a", "leaves", "one", "two")
    assert len(vocabulary) == 7
    assert vocabulary.encode(["A two", "a nine leaves"]).tolist() == [[1, 3, 6, 0], [1, 3, 2, 4]]


def test_batches_are_functions_of_seed_and_number_and_cover_an_epoch():
    videos = Videos.of(items() * 5)
    epoch = [videos.batch(4, 0, i) for i in range(3)]
    assert torch.cat(epoch).sort().values.tolist() == list(range(10))
    assert torch.equal(videos.batch(4, 0, 7), videos.batch(4, 0, 7))
