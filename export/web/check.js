// Runs where the rest may not: pages opened as files, and browsers without modules. Says what to do.

"use strict";

(function () {
  function tell(text) {
    document.body.dataset.state = "broken";
    document.getElementById("engine-text").textContent = "Not running";
    document.getElementById("error-text").textContent = text;
    document.getElementById("error").hidden = false;
  }
  if (location.protocol === "file:") {
    tell("Browsers do not run this page from a file. In its folder run python serve.py, and open what it prints.");
  } else if (!("noModule" in document.createElement("script")) || !self.OffscreenCanvas || !self.CompressionStream) {
    tell("This browser is too old. Use a current Chrome, Edge, Firefox or Safari.");
  }
})();
