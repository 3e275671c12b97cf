"""What lies in a corpus' folder, cheaply: enough to see that a part was unpacked or taken away since.

Looks at names and sizes two levels deep and opens nothing, so that the whole of LibriSpeech costs a moment. A file
replaced further down goes unseen: `asr-kd prepare --force` looks at everything.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_kd.corpora.an4 import find_an4
from asr_kd.corpora.librispeech import find_librispeech
from asr_kd.corpora.settings import An4Settings, LibriSpeechSettings, SyntheticSettings
from asr_kd.corpora.synthetic import settings_key


def fingerprint(settings: An4Settings | LibriSpeechSettings | SyntheticSettings) -> Any:
    """Plain data that changes when what prepare would find does.

    Raises:
        CorpusError: the corpus is not there.
    """
    if isinstance(settings, SyntheticSettings):
        return settings_key(settings)
    if isinstance(settings, An4Settings):
        folder, parts = find_an4(settings.root), ["audio", "etc", "wav"]
    else:
        folder, parts = find_librispeech(settings.root), sorted({*settings.train, *settings.dev, *settings.test})
    return [str(folder.resolve()), [entry for part in parts for entry in _listing(folder / part)]]


def _listing(folder: Path) -> Iterator[tuple[str, int | None]]:
    """A folder's name, then its entries: files with their size in bytes."""
    if not folder.is_dir():
        return
    yield folder.name, None
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            yield f"{folder.name}/{path.name}", path.stat().st_size if path.is_file() else None
