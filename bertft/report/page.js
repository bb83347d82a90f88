for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const number = (text) => parseFloat(text.replaceAll(",", "").replace("−", "-"));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      const texts = new Map(rows.map((row) => [row, row.cells[column].innerText.trim()]));
      rows.sort((left, right) => {
        const [a, b] = [texts.get(left), texts.get(right)];
        const [x, y] = [number(a), number(b)];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.localeCompare(b) * (down ? -1 : 1);
        return (x - y) * (down ? -1 : 1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
