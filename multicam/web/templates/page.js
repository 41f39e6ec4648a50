// Gradio's example photos are buttons without a name; a screen reader says this one.
() => {
  function name() {
    for (const example of document.querySelectorAll(".gallery-item:not([aria-label])")) {
      const file = example.querySelector("img")?.src.split("/").pop();
      if (file) example.setAttribute("aria-label", `example: ${file.split(".")[0]}`);
    }
  }
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}
