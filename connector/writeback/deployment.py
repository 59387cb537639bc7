"""Deploying and undeploying a model of ML Commons, which answers before it has done either.

``_register?deploy=true`` answers while the model is still to be deployed. An ``_undeploy`` sent meanwhile finds it on
no node ("not_found"), and the deployment that ends after it leaves a deployed model behind, which can be neither
deleted nor given another connector (ml-commons issues 2419 and 1986; on 2.19.1 after 5 of 9 undeploys sent within
10 ms).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from connector.engines.cluster.connection import ClusterError, Connection

__all__ = ["MODELS", "Deployment"]

MODELS = "/_plugins/_ml/models"
# How long, as part of the whole time, a deployment that is under way or may be about to start is waited for: one can
# hang (ml-commons issue 2808), and a model may have been registered without one.
_WAITED_FOR = {"DEPLOYING": 0.5, "REGISTERED": 0.1}
_THERE = ("DEPLOYING", "DEPLOYED", "PARTIALLY_DEPLOYED")
_PAUSE = 0.1
# So many refused undeploys, and the model's record is taken to be wrong: deploying anew mends it.
_REFUSED = 10


@dataclass(frozen=True, slots=True)
class Deployment:
    """The deployment of one model.

    Attributes:
        connection: to the cluster.
        model: its id.
        seconds: how long undeploying may take.
    """

    connection: Connection
    model: str
    seconds: float = 30.0

    def state(self) -> str | None:
        """The model's state in the cluster's words; None: there is no such model."""
        try:
            answer = self.connection.request("GET", f"{MODELS}/{self.model}")
        except ClusterError as error:
            if error.status != 404:
                raise
            return None
        return str(answer.get("model_state"))

    def undeploy(self) -> None:
        """Undeploy it and wait until it is; a model that is gone is passed over.

        Raises:
            ClusterError: it stays deployed.
        """
        begun = time.monotonic()
        sent = 0
        while True:
            state = self.state()
            if state is None or (sent and state not in _THERE):
                return
            waited = time.monotonic() - begun
            if waited > self.seconds:
                raise ClusterError(f"the model {self.model} stays {state}; look at the cluster's log")
            if sent == 0 and waited < _WAITED_FOR.get(state, 0) * self.seconds:
                time.sleep(_PAUSE)
                continue
            if sent:
                time.sleep(_PAUSE)
            self.connection.request("POST", f"{MODELS}/{self.model}/_undeploy")
            sent += 1
            if sent % _REFUSED == 0:
                self.connection.request("POST", f"{MODELS}/{self.model}/_deploy")
