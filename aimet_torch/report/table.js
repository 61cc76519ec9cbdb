(() => {
  for (const table of document.querySelectorAll("table[data-filter]")) {
    const body = table.tBodies[0], rows = [...body.rows].slice(1);
    document.getElementById(table.dataset.filter).addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    let sorted = -1, direction = 1;
    const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    for (const heading of table.querySelectorAll("th[data-sort]")) {
      heading.addEventListener("click", () => {
        const column = Number(heading.dataset.sort);
        direction = column === sorted ? -direction : 1;
        sorted = column;
        const compare = (a, b) => String(value(a, column)).localeCompare(value(b, column), "en", { numeric: true });
        const numeric = rows.every((row) => !Number.isNaN(Number(value(row, column))));
        rows.sort((a, b) => direction * (numeric ? value(a, column) - value(b, column) : compare(a, b)));
        body.append(...rows);
      });
    }
  }
})();
