"""Serve a trained network over HTTP: an image in the body of a request, probabilities as JSON.

    python examples/serve.py RUN
    curl --data-binary @IMAGE.jpg http://localhost:8000/predict

It needs `python -m pip install fastapi uvicorn`. The answer is that of `alexnet predict`, with the
test crops of the recipe. There is no encryption and no login: put a proxy before it that has them.
"""

import argparse
import sys
import threading
from pathlib import Path

import numpy as np

import alexnet
from alexnet.data.image import decode
from alexnet.errors import AlexNetError, DataError, not_installed

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
except ImportError:
    print(f"serve.py: {not_installed('the server', 'fastapi', 'uvicorn')}", file=sys.stderr)
    sys.exit(2)

MAX_BYTES = 20 * 2**20  # of an upload
MAX_CONNECTIONS = 50  # open at once; one more gets the answer 503, so that the memory is bounded


def application(run: Path) -> FastAPI:
    """The application that answers with the probabilities of the network of a run."""
    trained = alexnet.load(run)
    app = FastAPI(title=f"alexnet {run}")
    # One image at a time: it uses all cores, and the memory stays that of one image.
    one = threading.Lock()
    # The first image of a process takes seconds. The server answers once it is behind.
    px = trained.preprocess.stored_px
    trained([np.zeros((px, px, 3), np.uint8)])

    def probabilities(data: bytes) -> dict[str, float]:
        with one:
            # EXIF orientations are obeyed, as `alexnet predict` does.
            rgb = decode(data, upright=True, enough_px=trained.preprocess.stored_px)
            shares = trained([rgb])[0].tolist()
        named = zip(trained.classes, shares, strict=True)
        return dict(sorted(named, key=lambda pair: -pair[1]))

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, float]:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(400, "send the image itself as the body, not a form")
        data = bytearray()
        # Counted while it arrives: the length in the header is only what the client says.
        async for part in request.stream():
            data += part
            if len(data) > MAX_BYTES:
                raise HTTPException(413, f"the image has more than {MAX_BYTES} bytes")
        if not data:
            raise HTTPException(400, "the body is empty; send an image in it")
        try:
            return await run_in_threadpool(probabilities, bytes(data))
        except DataError as error:
            raise HTTPException(400, str(error)) from None

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"recipe": trained.about["recipe"], "sha256": trained.about["sha256"]}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines")
    parser.add_argument("--port", type=int, default=8000)
    a = parser.parse_args()
    try:
        app = application(a.run)
    except AlexNetError as error:
        parser.exit(2, f"serve.py: {error}\n")
    # uvicorn counts the connection that it refuses.
    uvicorn.run(app, host=a.host, port=a.port, limit_concurrency=MAX_CONNECTIONS + 1)
