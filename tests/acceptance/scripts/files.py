"""Functions leave files in a volume, and others read them there."""

import notebook_ext as modal

app = modal.App("example-files")
volume = modal.Volume.from_name("example-files", create_if_missing=True)


@app.function()
def save(name: str, text: str) -> None:
    (volume.path / name).write_text(text)
    volume.commit()


@app.function()
def total() -> int:
    volume.reload()
    return sum(len(entry.path) for entry in volume.listdir("/"))


@app.local_entrypoint()
def main() -> None:
    save.for_each(["one.txt", "two.txt"], ["1", "22"])
    print(sorted(entry.path for entry in volume.iterdir("/")), total.remote())
    print(b"".join(volume.read_file("two.txt")))
    modal.Volume.delete("example-files")
