"""Items arrive while they are made; an async generator's too."""

import notebook_ext as modal

app = modal.App("example-generators")


@app.function()
def count(n: int):
    for i in range(n):
        print(f"making {i}")
        yield i


@app.function()
async def letters(word: str):
    for letter in word:
        yield letter.upper()


@app.local_entrypoint()
async def main() -> None:
    got = []
    for i in count.remote_gen(3):
        got.append(i)
    print("got", got)
    print("".join([letter async for letter in letters.remote_gen.aio("modal")]))
