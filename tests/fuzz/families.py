"""What is fuzzed: for each family of files valid ones to begin with, and how a user of mmssl would read a damaged one.

A reader returns whether something came out; what came out has been looked at. It may raise UserError and nothing else.
"""

import io
import json
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutate import damaged, damaged_json, with_ogg_sums, with_png_sums
from PIL import Image

from mmssl.data.images import open_images
from mmssl.data.images.decode import decode_image, read_header
from mmssl.data.images.photo import read_photo
from mmssl.data.limits import Limits
from mmssl.data.stores import Extent
from mmssl.data.text import open_texts, train_tokenizer
from mmssl.data.text.labelled import open_labelled_texts
from mmssl.data.text.tokenizer import load_tokenizer
from mmssl.errors import UserError
from mmssl.nn import TransformerConfig
from mmssl.predictors import load_predictor
from mmssl.predictors.base import read_safetensors
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

TESTS = Path(__file__).resolve().parents[1]
LIMITS = Limits(pixels=4_000_000, file_bytes=2**24, seconds=5.0)


@dataclass(frozen=True)
class Family:
    """Files of a kind."""

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], bool]
    spoil: Callable[[list[bytes], Any], bytes] = damaged


def refused(read: Callable[[], object]) -> bool:
    """Whether there was a UserError, which every reader may raise."""
    try:
        read()
    except UserError as error:
        said = str(error)
    else:
        return False
    assert said.strip(), "an error without a word"
    return True


# pictures


def pictures(form: str, **options: object) -> Callable[[Path], list[bytes]]:
    def make(_: Path) -> list[bytes]:
        rng = np.random.default_rng(0)
        colour = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        kinds = [Image.fromarray(colour), Image.fromarray(colour[..., 0])]
        if form in ("PNG", "TIFF", "WEBP"):
            kinds.append(Image.fromarray(np.dstack((colour, colour[..., :1]))))
        if form in ("PNG", "GIF", "TIFF"):
            kinds.append(Image.fromarray(colour).quantize(16))
        if form in ("PNG", "TIFF"):
            kinds.append(Image.fromarray(colour[..., 0].astype(np.uint16) * 257))
        found = []
        for kind in kinds:
            exif = Image.Exif()
            exif[0x0112] = 6
            extra = {"exif": exif.tobytes()} if form in ("JPEG", "PNG", "WEBP") else {}
            stream = io.BytesIO()
            kind.save(stream, form, **extra, **options)
            found.append(stream.getvalue())
        if form == "GIF":
            stream = io.BytesIO()
            kinds[0].save(stream, "GIF", save_all=True, append_images=kinds[1:2])
            found.append(stream.getvalue())
        if form == "TIFF":
            for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
                stream = io.BytesIO()
                kinds[0].save(stream, "TIFF", compression=compression)
                found.append(stream.getvalue())
        return found

    return make


def arrays(_: Path) -> list[bytes]:
    found = []
    for shape in ((24, 20), (24, 20, 3)):
        stream = io.BytesIO()
        np.save(stream, np.zeros(shape, np.uint8))
        found.append(stream.getvalue())
    return found


def read_picture(file: Path) -> bool:
    looked = []

    def look() -> None:
        pixels = decode_image(file, 3, limits=LIMITS)
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 3
        assert pixels.shape[0] == 3
        assert 0 < pixels.shape[1] * pixels.shape[2] <= LIMITS.pixels
        looked.append(pixels)

    refused(look)
    refused(lambda: read_header(file, LIMITS))
    refused(lambda: read_photo(file, LIMITS))
    refused(lambda: decode_image(file, 1, reduce=4, limits=LIMITS))
    return bool(looked)


def spoil_png(seeds: list[bytes], draw: Any) -> bytes:
    raw = damaged(seeds, draw)
    return with_png_sums(raw) if draw.random() < 0.6 else raw


# recordings


def sounds(*names: str, lengths: tuple[float, ...] = (0.3,)) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        sys.path.insert(0, str(TESTS / "data" / "audio"))
        from sound_files import write_any

        made = [
            write_any(folder, name, seconds=seconds, channels=channels).read_bytes()
            for name in names
            for seconds in lengths
            for channels in (1, 2)
        ]
        return [with_ogg_sums(raw, serial=1) if raw[:4] == b"OggS" else raw for raw in made]

    return make


def read_sound(file: Path) -> bool:
    from mmssl.data.audio import decode
    from mmssl.data.audio.header import AudioLimits

    limits, frames = AudioLimits(hours=0.5, seconds=5.0), []

    def listen() -> None:
        extent = Extent(str(file), 0, file.stat().st_size)
        header = decode.read_header(extent, file.name, limits)
        assert header.rate > 0
        for block in decode.blocks(extent, header, limits):
            assert block.dtype == np.float32
            assert block.shape[1] == header.channels
            assert np.isfinite(block).all()
            frames.append(len(block))

    def seek(start: int, stop: int) -> None:
        extent = Extent(str(file), 0, file.stat().st_size)
        header = decode.read_header(extent, file.name, limits)
        start, stop = (place if place >= 0 else max(0, header.frames + place) for place in (start, stop))
        part = decode.read_frames(extent, header, start, stop, limits)
        assert part.shape == (stop - start,)
        assert np.isfinite(part).all()

    refused(listen)
    for start, stop in ((1000, 2000), (-1000, -1)):
        refused(lambda start=start, stop=stop: seek(start, stop))
    return bool(frames)


def spoil_ogg(seeds: list[bytes], draw: Any) -> bytes:
    raw = damaged(seeds, draw)
    return with_ogg_sums(raw) if draw.random() < 0.9 else raw


# videos


def videos(suffix: str, **how: str) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        sys.path.insert(0, str(TESTS / "data" / "video"))
        from video_files import plain

        return [
            plain(folder / f"{seconds}.{suffix}", seconds, size=(32, 32), **how).read_bytes() for seconds in (0.24, 0.4)
        ]

    return make


def read_video(file: Path) -> bool:
    from mmssl.data.video import ClipSettings, read_clip
    from mmssl.data.video.limits import VideoLimits

    limits = VideoLimits(pixels=1_000_000, clip_bytes=2**26, seconds=5.0)
    clips = []

    def look() -> None:
        clip = read_clip(file, ClipSettings(size=(16, 16)), limits=limits)
        assert clip.video.shape == (len(clip), 1, 16, 16)
        assert len(clip.audio) == 640 * len(clip)
        assert np.isfinite(clip.times).all()
        assert np.isfinite(clip.start)
        clips.append(clip)

    refused(look)
    return bool(clips)


# texts and tables

LINES = ["the cat sat on the mat", "ein Hund läuft über die Straße", "日本語の文", "numbers 1 2 3 and \t tabs"] * 4


def texts(form: str) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        import gzip

        rows = [{"text": line, "label": str(number % 2), "split": "train"} for number, line in enumerate(LINES)]
        plain = "\n".join(LINES).encode()
        if form == "txt":
            return [plain, plain.decode().encode("utf-16"), plain.decode().encode("utf-8-sig")]
        if form == "jsonl":
            return ["\n".join(map(json.dumps, rows)).encode()]
        if form in ("csv", "tsv"):
            mark = "," if form == "csv" else "\t"
            lines = [mark.join(("text", "label", "split"))]
            lines += [mark.join((row["text"].replace("\t", " "), row["label"], row["split"])) for row in rows]
            return ["\n".join(lines).encode()]
        if form == "gz":
            return [gzip.compress(plain)]
        import pyarrow
        import pyarrow.parquet

        found = []
        for compression in ("none", "snappy"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows", compression=compression)
            found.append((folder / "rows").read_bytes())
        return found

    return make


def read_text(file: Path) -> bool:
    found: list[str] = []

    def look() -> None:
        source = open_texts(file)
        lengths = source.lengths()
        for text, length in zip(source, lengths.tolist(), strict=True):
            assert len(text) == length > 0
            text.encode("utf-8")
            found.append(text)
        source.fingerprint()
        assert all(map(source.name_of, range(len(source))))

    refused(look)
    refused(lambda: open_labelled_texts(file))
    return bool(found)


# archives


def archives(form: str) -> Callable[[Path], list[bytes]]:
    def make(_: Path) -> list[bytes]:
        picture = pictures("PNG")(Path())[0]
        members = {"a/1.png": picture, "b/2.png": picture, "labels.csv": b"file,label\na/1.png,x\nb/2.png,y\n",
                   "c.txt": "\n".join(LINES).encode()}  # fmt: skip
        found = []
        for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w:gz" if form == "tgz" else "w", format=layout) as archive:
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    if layout == tarfile.PAX_FORMAT:
                        info.pax_headers = {"comment": "ü" * 20, "mtime": "1.5"}
                    archive.addfile(info, io.BytesIO(content))
            found.append(stream.getvalue())
        return found

    return make


def read_archive(file: Path) -> bool:
    found = []

    def look() -> None:
        source = open_images(file, limits=LIMITS)
        refused(source.labels)
        source.fingerprint()
        found.extend(index for index in range(len(source)) if not refused(lambda index=index: source[index]))

    refused(look)
    refused(lambda: list(open_texts(file)))
    return bool(found)


# lists and tables of labels


def tables(form: str) -> Callable[[Path], list[bytes]]:
    rows = [
        {"file": f"{number}.png", "label": "ab"[number % 2], "split": "train", "speaker": "one"} for number in range(4)
    ]
    if form == "labels.csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        return lambda _: ["\n".join(lines).encode(), '\ufefffile,label\n"0.png","a, b"\n'.encode()]
    if form == "list.txt":
        return lambda _: [b"0.png\n1.png\n../x/2.png\n/3.png\n"]
    return lambda _: ["\n".join(map(json.dumps, rows)).encode()]


def read_table(file: Path) -> bool:
    """The table beside four pictures, or as the list of them."""
    for number in range(4):
        path = file.parent / f"{number}.png"
        if not path.exists():
            path.write_bytes(pictures("PNG")(Path())[0])
    found = []

    def look(path: Path) -> None:
        source = open_images(path, limits=LIMITS)
        assert len(source) > 0
        found.append(source)
        refused(source.labels)
        for column in source.label_columns():
            source.column(column)

    refused(lambda: look(file.parent))
    refused(lambda: look(file))
    refused(lambda: open_labelled_texts(file) if file.suffix != ".txt" else None)
    return bool(found)


# runs

SHAPE = TransformerConfig(dim=16, depth=1, heads=2, mlp_dim=24)


def _run_folder(folder: Path) -> Path:
    if not (folder / "run" / "model").is_dir():
        torch.manual_seed(0)
        config = MaskedAutoencoderConfig(image_size=(16, 16), patch_size=(8, 8), encoder=SHAPE, decoder=SHAPE)
        MaskedAutoencoder(config).save(folder / "run" / "model")
    return folder / "run"


def weights(folder: Path) -> list[bytes]:
    return [(_run_folder(folder) / "model" / "model.safetensors").read_bytes()]


def read_weights(file: Path) -> bool:
    model = _run_folder(file.parent) / "model"
    target = model / "model.safetensors"
    target.write_bytes(file.read_bytes())
    found = []

    def look() -> None:
        predictor = load_predictor(model)
        assert all(tensor.isfinite().all() for tensor in predictor.state_dict().values())
        found.append(predictor)

    refused(lambda: read_safetensors(file))
    refused(look)
    return bool(found)


def spoil_weights(seeds: list[bytes], draw: Any) -> bytes:
    """Half of the time only the header, which is JSON, with a length that fits again."""
    raw = draw.choice(seeds)
    if draw.random() < 0.5:
        return damaged(seeds, draw)
    size = int.from_bytes(raw[:8], "little")
    header = damaged_json(raw[8 : 8 + size].decode(), draw).encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def configs(folder: Path) -> list[bytes]:
    from mmssl.predictors.inpainting import Inpainting, InpaintingConfig

    torch.manual_seed(0)
    shape = {"image_size": (16, 16), "patch_size": (8, 8), "encoder": SHAPE}
    made = {
        "patches": MaskedAutoencoder(MaskedAutoencoderConfig(**shape, decoder=SHAPE)),  # type: ignore[arg-type]
        "holes": Inpainting(InpaintingConfig(**shape, decoder_dim=8)),  # type: ignore[arg-type]
        "tokens": MaskedLanguageModel(
            MaskedLanguageModelConfig(vocabulary_size=20, encoder=SHAPE, special_ids=(0, 1, 2), mask_id=2, max_length=8)
        ),
    }
    for name, predictor in made.items():
        predictor.save(folder / "case" / name)
    return [(folder / "case" / name / "config.json").read_bytes() for name in made]


def read_config(file: Path) -> bool:
    """Beside the weights of each of them; what could be loaded predicts."""
    found = []

    def look(folder: Path) -> None:
        predictor = load_predictor(folder)
        with torch.no_grad():
            outcome = predictor(_batch_for(predictor.config))
        assert {"loss", "reference", "skill"} <= outcome.keys()
        found.append(predictor)

    for name in ("patches", "holes", "tokens"):
        (file.parent / name / "config.json").write_bytes(file.read_bytes())
        refused(lambda name=name: look(file.parent / name))
    return bool(found)


def _batch_for(config: Any) -> dict[str, torch.Tensor]:
    """Two samples as the config says that they are, no larger than they were."""
    batch = {"id": torch.arange(2), "epoch": torch.zeros(2, dtype=torch.int64)}
    if isinstance(config, MaskedLanguageModelConfig):
        token = torch.randint(3, 20, (2, min(8, config.max_length)))
        word = torch.arange(token.shape[1]).repeat(2, 1)
        return {**batch, "token": token, "word": word, "length": torch.tensor([token.shape[1], 4])}
    size = [min(32, side) for side in config.image_size]
    return {**batch, "image": torch.randint(0, 256, (2, config.channels, *size), dtype=torch.uint8)}


def spoil_json(bytes_alone: float, near: float) -> Callable[[list[bytes], Any], bytes]:
    """``bytes_alone``: how often it is damaged as any file is; ``near``: that of :func:`damaged_json`."""

    def spoil(seeds: list[bytes], draw: Any) -> bytes:
        if draw.random() < bytes_alone:
            return damaged(seeds, draw)
        return damaged_json(draw.choice(seeds).decode(), draw, near).encode("utf-8", "surrogatepass")

    return spoil


def journals(_: Path) -> list[bytes]:
    entries = [
        {"step": step, "loss": 1.0 / step, "reference": 1.0, "skill": 1 - 1.0 / step, "learning_rate": 1e-3,
         "samples_per_second": 10.0, "data_wait": 0.1, "seconds": float(step), "gradient_norm": 1.0, "val_skill": 0.1}
        for step in range(1, 30)
    ]  # fmt: skip
    return ["".join(json.dumps(entry) + "\n" for entry in entries).encode()]


def read_journal_of(file: Path) -> bool:
    from mmssl.report.gather import read_runs
    from mmssl.training.doctor import examine, print_examination
    from mmssl.training.journal import Journal

    run = file.parent / "journal-run"
    run.mkdir(exist_ok=True)
    target = run / "journal.jsonl"
    target.write_bytes(file.read_bytes())
    (run / "config.json").write_text(json.dumps({"config": {"steps": 30}, "predictor": {"predictor": "wav2vec2"}}))
    found = []

    def look() -> None:
        examination = examine(run)
        print_examination(examination)
        found.append(examination)

    refused(look)
    refused(lambda: read_runs([run]))
    refused(lambda: Journal(target, 5).close())
    return bool(found)


def spoil_journal(seeds: list[bytes], draw: Any) -> bytes:
    if draw.random() < 0.3:
        return damaged(seeds, draw)
    lines = draw.choice(seeds).decode().splitlines()
    for _ in range(draw.choice((1, 1, 3))):
        place = draw.randrange(len(lines))
        lines[place] = damaged_json(lines[place], draw).replace("\n", " ")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def tokenizers(folder: Path) -> list[bytes]:
    found = []
    for kind, size in (("wordpiece", 60), ("bpe", 280)):
        train_tokenizer(LINES, kind, size).save(folder / kind)  # type: ignore[arg-type]
        found.append((folder / kind / "tokenizer.json").read_bytes())
    return found


def read_tokenizer(file: Path) -> bool:
    folder = file.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    found = []

    def look() -> None:
        tokenizer = load_tokenizer(folder)
        list(tokenizer.encode(["the cat sat"]))
        found.append(tokenizer)

    refused(look)
    return bool(found)


FAMILIES = [
    Family("image.png", pictures("PNG"), read_picture, spoil_png),
    Family("image.jpg", pictures("JPEG"), read_picture),
    Family("image.gif", pictures("GIF"), read_picture),
    Family("image.webp", pictures("WEBP"), read_picture),
    Family("image.tiff", pictures("TIFF"), read_picture),
    Family("image.bmp", pictures("BMP"), read_picture),
    Family("image.npy", arrays, read_picture),
    Family(
        "sound.wav", sounds("wav16.wav", "wav24.wav", "float.wav", "extensible.wav", "rf64.wav", "ulaw.wav"), read_sound
    ),
    Family("sound.flac", sounds("flac16.flac", "flac24.flac"), read_sound),
    # libsndfile searches for the page of a place that is more than 2 s away
    Family("sound.ogg", sounds("vorbis.ogg", "opus.opus", lengths=(0.3, 2.5)), read_sound, spoil_ogg),
    Family("sound.mp3", sounds("mp3.mp3"), read_sound),
    Family("sound.m4a", sounds("aac.m4a"), read_sound),
    Family("video.mp4", videos("mp4", sound="aac"), read_video),
    Family("video.mkv", videos("mkv"), read_video),
    Family("video.avi", videos("avi", codec="mjpeg"), read_video),
    Family("text.txt", texts("txt"), read_text),
    Family("text.jsonl", texts("jsonl"), read_text),
    Family("text.csv", texts("csv"), read_text),
    Family("text.txt.gz", texts("gz"), read_text),
    Family("text.parquet", texts("parquet"), read_text),
    Family("some.tar", archives("tar"), read_archive),
    Family("some.tar.gz", archives("tgz"), read_archive),
    Family("labels.csv", tables("labels.csv"), read_table),
    Family("manifest.jsonl", tables("manifest.jsonl"), read_table, spoil_journal),
    Family("list.txt", tables("list.txt"), read_table),
    Family("model.safetensors", weights, read_weights, spoil_weights),
    # mostly values of the right type: nearly any other change is an unknown key or a wrong type to the reader
    Family("config.json", configs, read_config, spoil_json(0.1, near=0.85)),
    Family("journal.jsonl", journals, read_journal_of, spoil_journal),
    Family("tokenizer.json", tokenizers, read_tokenizer, spoil_json(0.2, near=0.4)),
]
