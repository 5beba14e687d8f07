"""Real bars into data/raw, from J-Quants or a folder of CSV files. Outside the DAG, which starts at what lies there."""

import argparse
from datetime import date
from pathlib import Path

from atft import paths
from atft.errors import InputError
from atft.fetch.csv_dir import read_csv_dir
from atft.fetch.jquants import PatientClient, fetch_bars
from atft.program import new_file, run_program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sources = parser.add_subparsers(dest="source", required=True)
    jquants = sources.add_parser("jquants", help="daily bars of Tokyo; needs an API key in JQUANTS_API_KEY")
    jquants.add_argument("--from", dest="first", type=day, required=True, help="first day, YYYY-MM-DD")
    jquants.add_argument("--to", dest="last", type=day, default=date.max, help="last day; today if left out")
    jquants.add_argument("--out", type=Path, default=paths.RAW / "jquants", help="folder, one file a month")
    csv_dir = sources.add_parser("csv-dir", help="one CSV file per stock, named CODE.csv")
    csv_dir.add_argument("--in", dest="folder", type=Path, required=True)
    csv_dir.add_argument("--labels", type=Path, help="CSV file with code, sector, industry")
    csv_dir.add_argument("--out", type=Path, default=paths.RAW / "bars.parquet")
    args = parser.parse_args()
    if args.source == "jquants":
        fetched, unpublished = fetch_bars(PatientClient(), args.first, args.last, args.out)
        print(f"{args.out}: {fetched} days fetched")
        if unpublished:
            print(f"{len(unpublished)} trading days have no bars yet, {unpublished[0]} first; run this again later")
    else:
        if args.out.suffix != ".parquet":
            raise InputError(f"--out {args.out}: name a .parquet file")
        bars = read_csv_dir(args.folder, args.labels)
        with new_file(args.out) as scratch:
            bars.write_parquet(scratch)
        print(f"{args.out}: {len(bars)} bars of {bars['code'].n_unique()} stocks")


def day(text: str) -> date:
    return date.fromisoformat(text)


if __name__ == "__main__":
    run_program(main)
