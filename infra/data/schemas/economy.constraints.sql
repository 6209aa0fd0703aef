ALTER TABLE indicator ADD PRIMARY KEY (code);
ALTER TABLE indicator_value ADD PRIMARY KEY (code, area, quarter);
ALTER TABLE indicator_value ADD FOREIGN KEY (code) REFERENCES indicator;
ALTER TABLE tax_payment ADD PRIMARY KEY (receipt);
ALTER TABLE insurance_payment ADD PRIMARY KEY (identity_number, quarter);
CREATE INDEX ON tax_payment (credit_code);
GRANT USAGE ON SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
GRANT SELECT ON ALL TABLES IN SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
