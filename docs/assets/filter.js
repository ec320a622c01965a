// An input with class "filter" hides the rows of the next table that lack one of its words.
document.addEventListener("input", ({ target }) => {
  if (!target.matches("input.filter")) return;
  const words = target.value.toLowerCase().split(/\s+/).filter(Boolean);
  const tables = [...document.querySelectorAll("table")];
  const table = tables.find((t) => target.compareDocumentPosition(t) & Node.DOCUMENT_POSITION_FOLLOWING);
  for (const row of table ? table.tBodies[0].rows : []) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
});
