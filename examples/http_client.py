"""Ask the HTTP service with the standard library alone: start it on a free port, rerank, stop it.

python examples/http_client.py
"""

import json
import subprocess
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

QUERY = {
    "query": "how long do cats sleep",
    "documents": ["Rust is a language.", "Adult cats sleep 12 to 16 hours a day.", "Bread is made from flour."],
    "top_n": 2,
}


def rerank(url: str) -> dict:
    """The answer of /v1/rerank; until the model is loaded, the service says when to ask again."""
    request = Request(f"{url}/v1/rerank", json.dumps(QUERY).encode(), {"Content-Type": "application/json"})
    while True:
        try:
            with urlopen(request) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code != 503 or "Retry-After" not in error.headers:
                raise
            time.sleep(float(error.headers["Retry-After"]))


with subprocess.Popen(["rh-connector", "--json", "serve", "--port", "0"], stdout=subprocess.PIPE) as service:
    try:
        # Its first line says where it listens.
        for result in rerank(json.loads(service.stdout.readline())["url"])["results"]:
            print(f"{result['relevance_score']:.3f}  {QUERY['documents'][result['index']]}")
    finally:
        service.terminate()
