"""LitServe with an API that answers at once, on the port that is given: `POST /predict`."""

import sys

import litserve


class Square(litserve.LitAPI):  # type: ignore[misc]  # ships no types here
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, request: dict[str, int]) -> dict[str, int]:
        return {"square": request["x"] ** 2}


if __name__ == "__main__":
    litserve.LitServer(Square(), accelerator="cpu").run(port=int(sys.argv[1]), log_level="error", generate_client_file=False)
