/** How amounts of money are written; telemetry/money.py writes the same on the server. */

/** From one dollar on to the cent, below it three digits that say something. null: "-". */
export function dollars(amount) {
  if (amount === null || amount === undefined || !Number.isFinite(Number(amount))) return "-";
  const number = Math.abs(Number(amount));
  const sign = Number(amount) < 0 ? "-" : "";
  if (number === 0) return "$0.00";
  const places = number < 1 ? Math.min(Math.max(2 - Math.floor(Math.log10(number)), 2), 20) : 2;
  const [whole, part] = number.toFixed(places).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return `${sign}$${grouped}.${part.replace(/0+$/, "").padEnd(2, "0")}`;
}
