// Files go to the server one by one; what comes back is shown, kept in this page alone, and can be saved.
{
  const page = one("#content"), waiting = [];
  let busy = false;

  const made = (tag, properties) => Object.assign(document.createElement(tag), properties);

  function saved(text, type, name, label) {
    return made("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name, textContent: label });
  }

  // The report runs its own scripts in a frame that is of no origin: it cannot reach this page or the server.
  function show(report, name) {
    const theme = document.documentElement.dataset.theme;
    const themed = theme ? report.replace("<html ", `<html data-theme="${theme}" `) : report;
    const frame = made("iframe", { className: "report", title: `Report about ${name}`, srcdoc: themed });
    frame.setAttribute("sandbox", "allow-scripts");
    one("#shown iframe")?.remove();
    one("#h-shown").textContent = `Report about ${name}`;
    one("#shown").append(frame);
    one("#shown").hidden = false;
    one("#meaning").open = false;  // the report says the same
  }

  function tell(line, name, found) {
    const row = found.files[0];
    line.append(made("span", { className: `verdict v-${row.verdict.replace(" ", "-")}`, textContent: row.verdict }));
    if (row.probability !== null) {
      line.append(made("span", { className: "soft", textContent: `P(fake) ${row.probability.toFixed(2)}` }));
    }
    const button = made("button", { type: "button", textContent: "Show the report" });
    button.addEventListener("click", () => show(found.report, name));
    const stem = name.replace(/[^\w.-]+/g, "_");
    line.append(button, saved(found.report, "text/html", `${stem}.html`, "Save the report"));
    line.append(saved(JSON.stringify(row), "application/json", `${stem}.json`, "Save as JSON"));
    show(found.report, name);
  }

  async function ask(file) {
    if (file.size > Number(page.dataset.most)) {
      throw new Error(`The file is too large; expected at most ${page.dataset.mostText}.`);
    }
    const headers = {
      "Content-Type": "application/octet-stream",
      "X-ResProto-Token": page.dataset.token,
      "X-ResProto-Name": encodeURIComponent(file.name.toWellFormed?.() ?? file.name),
    };
    let response;
    try {
      response = await fetch("answers", { method: "POST", body: file, headers });
    } catch {
      throw new Error("The server did not answer. It may have been stopped, or the file cannot be read.");
    }
    const found = await response.json().catch(() => ({ error: `The server answered with status ${response.status}.` }));
    if (!response.ok) throw new Error(found.error);
    return found;
  }

  async function work() {
    if (busy) return;
    busy = true;
    for (let next; (next = waiting.shift());) {
      const [file, line, state] = next;
      state.textContent = "looking for faces …";
      try {
        const found = await ask(file);
        state.remove();
        tell(line, file.name, found);
      } catch (error) {
        state.className = "fault";
        state.textContent = error.message;
      }
    }
    busy = false;
  }

  function take(files) {
    for (const file of files) {
      const line = made("li", {}), state = made("span", { className: "soft", textContent: "waiting …" });
      line.append(made("span", { className: "name", textContent: file.name }), state);
      one("#given").prepend(line);
      waiting.push([file, line, state]);
    }
    work();
  }

  const drop = one("#drop");
  const over = (on) => (event) => {
    event.preventDefault();
    drop.classList.toggle("over", on);
  };
  addEventListener("dragover", over(true));
  addEventListener("dragleave", over(false));
  addEventListener("drop", (event) => {
    over(false)(event);
    take(event.dataTransfer.files);
  });
  one("#files").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
}
