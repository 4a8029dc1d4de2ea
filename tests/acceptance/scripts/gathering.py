"""Calls in the background, gathered; functions that call functions; their graph."""

import notebook_ext as modal

app = modal.App("example-gathering")


@app.function()
def word_count(line: str) -> int:
    return len(line.split())


@app.function()
def document_count(text: str) -> int:
    return sum(word_count.map(text.splitlines()))


@app.local_entrypoint()
def main() -> None:
    texts = ["to be or\nnot to be", "that is\nthe question"]
    calls = [document_count.spawn(text) for text in texts]
    print(modal.FunctionCall.gather(*calls))
    (root,) = calls[0].get_call_graph()
    print(root.function_name, root.status.name, sorted({c.function_name for c in root.children}))
    many = word_count.spawn_map(["a", "b c", "d e f"])
    print(list(many.iter()))
