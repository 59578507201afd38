// The try-it box: sends the prompt with fetch and shows the answer as it arrives. Without this file the form is an
// ordinary POST and the page comes back with the whole answer.
(() => {
  "use strict";

  /** Calls `onEvent(data)` for each server-sent event of a byte stream; events may be cut anywhere. */
  async function readEvents(body, onEvent) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += value;
      const events = pending.split(/\r?\n\r?\n/);
      pending = events.pop();
      for (const event of events) {
        const data = event
          .split(/\r?\n/)
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        if (data) onEvent(data);
      }
    }
  }

  class TryIt {
    constructor(form) {
      this.form = form;
      this.words = form.dataset;
      this.run = form.querySelector("[data-run]");
      this.stop = form.querySelector("[data-stop]");
      this.result = document.getElementById(form.dataset.result);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.send();
      });
      this.stop.addEventListener("click", () => this.controller?.abort());
      form.elements.prompt.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
          event.preventDefault();
          form.requestSubmit(this.run);
        }
      });
    }

    field(name) {
      return this.result.querySelector(`[data-field="${name}"]`);
    }

    show(name, text) {
      this.field(name).textContent = text;
    }

    seconds(milliseconds) {
      return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
    }

    setBusy(isBusy) {
      this.run.disabled = isBusy;
      this.run.setAttribute("aria-busy", String(isBusy));
      this.stop.hidden = !isBusy;
      this.field("answer").setAttribute("aria-busy", String(isBusy));
    }

    begin() {
      this.result.hidden = false;
      this.result.dataset.state = "running";
      for (const name of ["first", "duration", "input", "output", "answer", "reasoning", "error"]) this.show(name, "");
      for (const name of ["first", "duration", "input", "output"]) this.show(name, "–");
      this.field("reasoning").hidden = true;
      this.field("error").hidden = true;
      this.field("answer").hidden = false;
      this.show("status", this.words.textRunning);
      this.startedAt = performance.now();
      this.firstAt = null;
      this.hasUsage = false;
      this.setBusy(true);
    }

    async send() {
      if (this.run.disabled) return;
      this.begin();
      this.controller = new AbortController();
      try {
        const response = await fetch(this.form.action, {
          method: "POST",
          body: new FormData(this.form),
          headers: { Accept: "text/event-stream" },
          signal: this.controller.signal,
          credentials: "same-origin",
        });
        const type = response.headers.get("Content-Type") ?? "";
        if (type.startsWith("text/event-stream")) await this.readStream(response);
        else if (type.startsWith("application/json")) this.readJson(response, await response.json());
        else if (response.redirected || response.status === 403) this.fail(response.status, "", this.words.textSignedOut);
        else this.fail(response.status, "", this.words.textBroken);
      } catch (error) {
        if (error.name === "AbortError") this.end(this.words.textStopped, "stopped");
        else this.fail(0, "", this.words.textBroken);
      } finally {
        this.show("duration", this.seconds(performance.now() - this.startedAt));
        this.setBusy(false);
      }
    }

    async readStream(response) {
      let failure = null;
      let isDone = false;
      await readEvents(response.body, (data) => {
        if (data === "[DONE]") {
          isDone = true;
          return;
        }
        const chunk = JSON.parse(data);
        if (chunk.error) failure = chunk.error;
        else this.addChunk(chunk);
      });
      if (failure) this.fail(response.status, failure.code, failure.message);
      else if (!isDone) this.fail(response.status, "", this.words.textCut);
      else this.end(`${response.status} OK`, "done");
    }

    addChunk(chunk) {
      const delta = chunk.choices?.[0]?.delta ?? {};
      if ((delta.content || delta.reasoning_content) && this.firstAt === null) {
        this.firstAt = performance.now();
        this.show("first", this.seconds(this.firstAt - this.startedAt));
      }
      if (delta.reasoning_content) {
        this.field("reasoning").hidden = false;
        this.field("reasoning").append(delta.reasoning_content);
      }
      if (delta.content) this.field("answer").append(delta.content);
      if (chunk.usage) this.showUsage(chunk.usage);
    }

    showUsage(usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
      const input = (usage.prompt_tokens ?? 0).toLocaleString("en-US");
      this.show("input", cached ? `${input} (${this.words.textCached.replace("%s", cached.toLocaleString("en-US"))})` : input);
      if (usage.completion_tokens !== undefined) this.show("output", usage.completion_tokens.toLocaleString("en-US"));
    }

    readJson(response, answer) {
      if (answer.error) {
        this.fail(response.status, answer.error.code, answer.error.message);
        return;
      }
      if (answer.usage) this.showUsage(answer.usage);
      if (Array.isArray(answer.data)) {
        const vector = answer.data[0]?.embedding ?? [];
        const beginning = vector.slice(0, 8).map((figure) => figure.toFixed(5)).join(", ");
        this.show("answer", `${this.words.textVector.replace("%s", vector.length)}\n[${beginning}, …]`);
      } else {
        this.show("answer", answer.choices?.[0]?.message?.content ?? "");
      }
      this.end(`${response.status} OK`, "done");
    }

    end(status, state) {
      this.result.dataset.state = state;
      this.show("status", status);
    }

    fail(status, code, message) {
      this.end([status || "", code || ""].join(" ").trim() || this.words.textFailed, "failed");
      this.field("error").hidden = false;
      this.show("error", message || this.words.textBroken);
      if (!this.field("answer").textContent) this.field("answer").hidden = true;
    }
  }

  for (const form of document.querySelectorAll("form[data-try-it]")) new TryIt(form);
})();
