// Shows the map of the word that is pointed at, has the focus or is tapped, until another one is.
let caption, chosen;

function show(number) {
  chosen = number;
  for (const map of element.querySelectorAll("[data-map]")) {
    map.hidden = map.dataset.map !== number;
  }
  for (const word of element.querySelectorAll("[data-word]")) {
    word.setAttribute("aria-pressed", word.dataset.word === number);
  }
}

for (const event of ["pointerover", "focusin", "click"]) {
  element.addEventListener(event, ({ target }) => {
    const word = target.closest("[data-word]");
    if (word) show(word.dataset.word);
  });
}

// The same caption in other colours keeps the word that was chosen.
watch("value", () => {
  const now = element.querySelector(".mc-words")?.textContent;
  if (now === caption && chosen !== undefined) show(chosen);
  else [caption, chosen] = [now, undefined];
});
